//! Places among the agent's sockets: asked for before a connection is served or a socket is made,
//! and reported where there is none.

use tokio::time::Instant;

use crate::bounds::{Client, Held, Limit, Use};
use crate::failure::{Failure, Kind, Retry, Side};
use crate::proxy::conn::Conn;
use crate::proxy::realm::Local;

/// A socket that may not be.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// The limit that was met.
    pub limit: Limit,
    /// Whether the refusal is reported: of many it is one a second.
    pub is_mentioned: bool,
}

/// Takes a place for one more socket of `local`; `client` is `None` for what its application does.
///
/// # Errors
///
/// There are too many. It was counted, and logged if it is to be mentioned.
pub fn take(local: &Local, used: Use, client: Option<Client>) -> Result<Held, Refused> {
    let (client, limit) = match local.account.admit(used, client) {
        Ok(held) => return Ok(held),
        Err(refused) => refused,
    };
    let mention = local.account.mention(used, Instant::now().into_std());
    if let Some(count) = mention {
        tracing::warn!(workload = %local.workload.name, used = used.as_str(),
            limit = limit.as_str(), client = client.as_ref().map(tracing::field::display), count,
            "connections are refused: {limit}");
    }
    Err(Refused { limit, is_mentioned: mention.is_some() })
}

impl Refused {
    /// Reports a connection that was not even begun, if this refusal is mentioned.
    pub fn finish(self, mut conn: Conn) {
        if !self.is_mentioned {
            conn.reported_otherwise();
        }
        conn.finish(Err(self.failure()));
    }

    /// What the connection's report says. Nothing was sent to anybody.
    pub fn failure(self) -> Failure {
        Failure::because(Kind::Limit, Side::Client, Retry::Safe, self.limit)
    }
}
