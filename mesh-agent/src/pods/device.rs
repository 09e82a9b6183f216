//! The network device that has a workload's addresses: sockets that are bound to it reach the agent there.

use std::net::IpAddr;

use crate::model::workload::Workload;
use crate::pods::set::Pod;
use crate::sys::netns::addresses;

impl Pod {
    /// Looks for the device, if it is not known yet: a namespace may be found before it has an address.
    pub(super) fn find_device(&mut self) {
        if self.device != 0 {
            return;
        }
        match self.realm.enter(addresses) {
            Ok(all) => self.device = of(&self.workload, &all),
            // It is looked for again, and until then such sockets do not reach the agent.
            Err(error) => tracing::debug!(
                workload = %self.workload.name, %error, "its network devices cannot be read"
            ),
        }
    }
}

/// The device among those of `all` addresses that has the first address of each family. 0: none has.
fn of(workload: &Workload, all: &[(IpAddr, u32)]) -> u32 {
    let first = |v4: bool| workload.addresses.iter().find(|ip| ip.is_ipv4() == v4);
    let device = |ip: &IpAddr| {
        all.iter().find(|(address, _)| address == ip).map_or(0, |(_, device)| *device)
    };
    let mut devices = [true, false].into_iter().filter_map(first).map(device);
    match (devices.next(), devices.next()) {
        (Some(only), None) => only,
        (Some(v4), Some(v6)) if v4 == v6 => v4,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::id::ResourceName;
    use crate::model::spiffe::SpiffeId;
    use crate::model::workload::Place;

    #[track_caller]
    fn check(addresses: &[&str], expect: u32) {
        let workload = Workload {
            name: ResourceName::new("demo", "web"),
            identity: SpiffeId::new("cluster.local", "demo", "web").unwrap(),
            node: Some("a".into()),
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            labels: BTreeMap::new(),
            ports: Vec::new(),
            probes: Vec::new(),
            ready: true,
            place: Place::Unplaced,
        };
        let all = [("127.0.0.1", 1), ("10.0.0.1", 2), ("fd00::1", 2), ("10.1.0.1", 3)];
        let all = all.map(|(ip, device)| (ip.parse().unwrap(), device));
        assert_eq!(of(&workload, &all), expect, "{addresses:?}");
    }

    #[test]
    fn one_device_has_both_addresses() {
        check(&["10.0.0.1"], 2);
        check(&["fd00::1"], 2);
        check(&["10.0.0.1", "fd00::1"], 2);
        check(&["fd00::1", "10.0.0.1", "10.1.0.1"], 2);
        check(&["10.1.0.1", "fd00::1"], 0);
        check(&["10.9.0.1", "fd00::1"], 0);
        check(&["10.9.0.1"], 0);
        check(&[], 0);
    }
}
