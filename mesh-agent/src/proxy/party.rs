//! Owners of the turns that a connection's tasks use on their data thread.

use std::net::IpAddr;

use crate::bounds::Client;
use crate::model::id::ResourceName;
use crate::model::spiffe::SpiffeId;
use crate::task::fair::Party;

/// Those of a client without identity: within those of its network, where one host may have all of it.
pub fn stranger(address: IpAddr) -> Party {
    let client = Client::at(address);
    Party::of(&client.around().unwrap_or_else(|| client.clone()), &client)
}

/// Those of a peer: its identity's, of which its addresses have equal parts.
pub fn peer(identity: &SpiffeId, address: IpAddr) -> Party {
    Party::of(identity, &address.to_canonical())
}

/// Those of a workload of this node.
pub fn workload(name: &ResourceName) -> Party {
    Party::of(name, &())
}
