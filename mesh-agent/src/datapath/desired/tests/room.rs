//! Maps that are asked for more than they hold.

use super::*;

/// A workload of `namespace` on this node, with a setting of its own for each of `n_ports` ports.
fn crowd(mesh: &mut Snapshot, namespace: &str, n: u64, n_ports: u16) -> Enrolled {
    let name = ResourceName::new(namespace, format!("w{n:04}"));
    let identity = SpiffeId::new("cluster.local", namespace, "w").unwrap();
    let address = std::net::Ipv4Addr::from_bits(0x0a80_0000 + u32::try_from(n).unwrap());
    let known = Known { name, identity, ..workload("x", Some("a"), &address.to_string()) };
    let port = PortPolicy { mtls: MtlsMode::Strict, ..PortPolicy::default() };
    let ports = (1..=n_ports).map(|number| (number, port.clone())).collect();
    let policy = WorkloadPolicy { ports, ..WorkloadPolicy::default() };
    mesh.policies.insert(known.name.clone(), Arc::new(policy));
    let source = SourceKey::netns(1_000 + n);
    let enrolled =
        Enrolled { name: known.name.clone(), source, netns: 1_000 + n, ready: true, device: 0 };
    let known = Arc::new(known);
    mesh.by_address.insert(known.addresses[0], vec![Arc::clone(&known)]);
    mesh.workloads.insert(known.name.clone(), known);
    enrolled
}

/// Asserts that no map is asked to hold more than it does.
fn fits(entries: &Entries) {
    use mesh_common::maps;
    let chunks: usize = entries.sets.values().map(|slots| slots.len().div_ceil(CHUNK_SLOTS)).sum();
    for (map, wanted, most) in [
        (maps::SOURCES, entries.sources.len(), maps::MAX_SOURCES),
        (maps::WORKLOADS, entries.workloads.len(), maps::MAX_SOURCES),
        (maps::DESTINATIONS, entries.destinations.len(), maps::MAX_DESTINATIONS),
        (maps::CONSUMERS, entries.consumers.len(), maps::MAX_SETS),
        (maps::BACKENDS, entries.sets.len(), maps::MAX_SETS),
        ("chunks", chunks, maps::MAX_CHUNKS),
        (maps::VERDICTS, entries.verdicts.len(), maps::MAX_VERDICTS),
        (maps::PORTS, entries.ports.len(), maps::MAX_PORTS),
        (maps::INBOUND, entries.inbound.len(), maps::MAX_PORTS),
        (maps::PROBES, entries.probes.len(), maps::MAX_PORTS),
        (maps::EXTERNALS, entries.externals.len(), maps::MAX_EXTERNALS),
    ] {
        assert!(wanted <= most, "{map}: {wanted} of {most}");
    }
}

/// Asserts that the findings are of one namespace, and returns their first words.
fn short(entries: &Entries, namespace: &str) -> Vec<String> {
    let word = |finding: &Finding| {
        assert!(finding.message.contains(&format!("of which namespace {namespace} may")));
        let rest = finding.message.strip_prefix("the kernel's map ").unwrap();
        rest.split_once(" holds").unwrap().0.to_owned()
    };
    entries.findings.iter().map(word).collect()
}

#[test]
fn ports_of_one_namespace_leave_others_their_entries() {
    let mut mesh = Snapshot::default();
    // 1,100 × 255 = 280,500 ports, more than any of the maps holds.
    let mut all: Vec<_> = (0..1_100).map(|n| crowd(&mut mesh, "evil", n, 255)).collect();
    let victim = crowd(&mut mesh, "shop", 1_100, 255);
    let name = victim.name.clone();
    all.push(victim);
    let entries = compile(&mesh, &all);
    fits(&entries);
    assert_eq!(short(&entries, "evil"), ["INBOUND", "PORTS", "DESTINATIONS"]);
    let of_victim = (1..=255_u16).map(u16::to_be);
    for port in of_victim.chain([0]) {
        assert!(entries.inbound.contains_key(&PortKey::new(2_100, port)));
        assert!(port == 0 || entries.ports.contains_key(&PortKey::new(id_of(&name), port)));
        let address = from_ip(mesh.workloads[&name].addresses[0]);
        assert!(entries.destinations.contains_key(&DestinationKey::tcp(address, port)));
    }
    // A workload that has no entries for its ports is guarded at all of them, and goes through the agent.
    let crowded = |n: u64| !entries.inbound.contains_key(&PortKey::new(1_000 + n, 1_u16.to_be()));
    let without: Vec<_> = (0..1_100).filter(|n| crowded(*n)).collect();
    assert!(!without.is_empty() && without.len() < 1_100);
    for n in 0..1_100 {
        let any = entries.inbound[&PortKey::new(1_000 + n, 0)].flags;
        assert_eq!(any & (CAPTURE | GUARDED), if crowded(n) { CAPTURE | GUARDED } else { CAPTURE });
    }
    let last = &mesh.workloads[&ResourceName::new("evil", "w1099")];
    let any = DestinationKey::any_tcp_port(from_ip(last.addresses[0]));
    assert_eq!(entries.destinations[&any].flags, GUARDED);
    assert_eq!(entries.workloads[&id_of(&last.name)].flags & (BY_PORT | VIA_AGENT), VIA_AGENT);
}

#[test]
fn services_of_one_namespace_leave_others_their_entries() {
    let mut mesh = three();
    let address = service(&mut mesh, &[(1, &["here"])], None);
    let target = Arc::clone(&mesh.services[&address]);
    // 140 × 2,000 = 280,000 ports, more than either map holds.
    for n in 0..140_u8 {
        let name = ResourceName::new("evil", format!("s{n}"));
        let service = Arc::new(Service { name, ..Service::clone(&target.service) });
        for port in 1..=2_000 {
            let default = Split { route: None, backends: Vec::new(), http: None };
            let service = Arc::clone(&service);
            let one = Target { service, port, default, by_namespace: HashMap::new() };
            mesh.services.insert(SocketAddr::new([10, 97, 0, n].into(), port), Arc::new(one));
        }
    }
    let entries = compile(&mesh, &[pod("here", 42)]);
    fits(&entries);
    let maps = ["DESTINATIONS", "BACKENDS", "BACKENDS (endpoints)"];
    assert_eq!(short(&entries, "evil"), maps);
    let here = at(&entries, "10.96.0.10", 80).unwrap();
    assert_eq!((here.flags & ASK, entries.sets[&here.set].len()), (0, 1));
    assert!(at(&entries, "10.0.0.1", 0).is_some() && at(&entries, "10.0.0.2", 0).is_some());
    // The agent decides about each port that the kernel has no entry or no set for, and nothing goes
    // past it.
    let caller =
        Caller { netns: 42, source: entries.sources[&SourceKey::netns(42)], shares: false };
    let kernel = Kernel(&entries, 0.into());
    let mut ways = BTreeMap::new();
    for n in 0..140_u8 {
        for port in [1_u16, 2_000] {
            let to = from_ip([10, 97, 0, n].into());
            let decision = decide(&caller, to, port.to_be(), &kernel);
            assert!(matches!(decision.verdict, Verb::Proxy | Verb::Nobody));
            assert!(!may_go_past(&caller.source, to, &decision));
            *ways.entry(format!("{:?}", decision.verdict)).or_insert(0) += 1;
        }
    }
    assert_eq!(ways.len(), 2, "{ways:?}");
}

#[test]
fn the_kernel_has_room_for_65536_services() {
    let mut mesh = three();
    let workload = Arc::clone(&mesh.workloads[&ResourceName::new("demo", "here")]);
    let address = SocketAddr::new(workload.addresses[0], 8080);
    let endpoints: Arc<[_]> = [Endpoint { address, workload }].into();
    let target = |name: ResourceName| {
        let service = Arc::new(Service {
            name: name.clone(),
            hostname: "echo.demo.svc.cluster.local".into(),
            addresses: Vec::new(),
            ports: Vec::new(),
            selector: BTreeMap::new(),
        });
        let endpoints = Arc::clone(&endpoints);
        let resolved = Endpoints::Resolved { service: Arc::clone(&service), endpoints };
        let backend = Backend { service: name, port: 80, weight: 1, endpoints: resolved };
        let default = Split { route: None, backends: vec![backend], http: None };
        Arc::new(Target { service, port: 80, default, by_namespace: HashMap::new() })
    };
    let at = |n: u32| SocketAddr::new(std::net::Ipv4Addr::from_bits(0x0b00_0000 + n).into(), 80);
    let many = |n: u32| (at(n), target(ResourceName::new("demo", format!("s{n:06}"))));
    mesh.services.extend((0..65_536).map(many));
    let entries = compile(&mesh, &[pod("here", 42)]);
    fits(&entries);
    assert!(entries.findings.is_empty(), "{:?}", entries.findings);
    assert_eq!((entries.sets.len(), entries.destinations.len()), (65_536, 2 * 65_536 + 2));
    // More than there is room for: a condition names the map, and other namespaces keep theirs.
    mesh.services.extend((65_536..140_000).map(many));
    mesh.services.insert(at(1 << 20), target(ResourceName::new("shop", "alone")));
    let entries = compile(&mesh, &[pod("here", 42)]);
    fits(&entries);
    assert_eq!(short(&entries, "demo"), ["DESTINATIONS"]);
    let key = |n: u32| DestinationKey::tcp(from_ip(at(n).ip()), 80_u16.to_be());
    for n in [0, 65_535, 1 << 20] {
        assert_eq!(entries.destinations[&key(n)].flags & ASK, 0, "{n}");
    }
    assert!(!entries.destinations.contains_key(&key(139_999)));
}

#[test]
fn policies_and_places_of_one_namespace_leave_others_theirs() {
    let mut mesh = Snapshot::default();
    let ports = (1..=30_000).collect();
    let rule = Rule { to: vec![Operation { ports, ..Operation::default() }], ..Rule::default() };
    let deny = vec![policy(Action::Deny, vec![rule])];
    let all: Vec<_> = (0..50).map(|n| crowd(&mut mesh, "evil", n, 0)).collect();
    for local in &all {
        let policy = WorkloadPolicy { authorization: deny.clone(), ..WorkloadPolicy::default() };
        mesh.policies.insert(local.name.clone(), Arc::new(policy));
    }
    let victim = crowd(&mut mesh, "shop", 99, 0);
    let allow = vec![policy(Action::Allow, vec![])];
    let policy = WorkloadPolicy { authorization: allow, ..WorkloadPolicy::default() };
    mesh.policies.insert(victim.name.clone(), Arc::new(policy));
    let class_of =
        |entries: &Entries, local: &Enrolled| entries.workloads[&id_of(&local.name)].class;
    let everybody: Vec<_> = all.iter().cloned().chain([victim.clone()]).collect();
    let entries = compile(&mesh, &everybody);
    fits(&entries);
    assert_eq!(short(&entries, "evil"), ["VERDICTS"]);
    let says = |class: u64| {
        entries.verdicts.get(&VerdictKey::new(id_of(&all[0].name), class, 0)).map(|one| one.says)
    };
    assert_eq!(says(class_of(&entries, &victim)), Some(DENY));
    // Not known to the kernel: the agent judges.
    assert_eq!(says(class_of(&entries, &all[1])), None);
    assert_ne!(class_of(&entries, &all[1]), 0);
    // More workloads than a node has places for.
    let many: Vec<_> = (0..4_200).map(|n| crowd(&mut mesh, "evil", n, 0)).collect();
    let source = SourceKey::netns(9);
    let victim = Enrolled { netns: 9, source, ..victim };
    let everybody: Vec<_> = many.into_iter().chain([victim]).collect();
    let entries = compile(&mesh, &everybody);
    fits(&entries);
    assert_eq!(entries.sources.len(), mesh_common::maps::MAX_SOURCES - 2);
    assert!(entries.sources.contains_key(&source));
}
