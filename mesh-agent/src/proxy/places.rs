//! Places among the agent's sockets, and in its memory: asked for before a connection is served or a
//! socket is made, and reported where there is none.

use tokio::time::Instant;

use crate::bounds::{Client, Held, Limit, Promise, Use, Wanted};
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
    local.account.admit(used, client).map_err(|refused| told(local, used, refused))
}

/// Has memory promised to one more connection of `local`; `client` as for [`take`].
///
/// # Errors
///
/// There is none left. It was counted, and logged if it is to be mentioned.
pub fn promise(
    local: &Local,
    used: Use,
    client: Option<Client>,
    wanted: Wanted,
) -> Result<Promise, Refused> {
    local.account.promise(used, client, wanted).map_err(|refused| told(local, used, refused))
}

fn told(local: &Local, used: Use, (client, limit): (Option<Client>, Limit)) -> Refused {
    let mention = local.account.mention(used, Instant::now().into_std());
    if let Some(count) = mention {
        tracing::warn!(workload = %local.workload.name, used = used.as_str(),
            limit = limit.as_str(), client = client.as_ref().map(tracing::field::display), count,
            "connections are refused: {limit}");
    }
    Refused { limit, is_mentioned: mention.is_some() }
}

impl Refused {
    /// Reports a connection that was not even begun, if this refusal is mentioned.
    pub fn finish(self, mut conn: Conn) {
        if !self.is_mentioned {
            conn.reported_otherwise();
        }
        conn.finish(Err(self.failure()));
    }

    /// The failure for the connection's report. Nothing was sent to anybody.
    pub fn failure(self) -> Failure {
        Failure::because(Kind::Limit, Side::Client, Retry::Safe, self.limit)
    }
}
