//! The configuration changes while the mesh is in use.

use std::net::{Ipv4Addr, SocketAddr};

use mesh_tests::agent::Agent;
use mesh_tests::apps::{Client, Server};
use mesh_tests::expect::eventually;
use mesh_tests::mesh::{Mesh, Route, Service, Workload};
use mesh_tests::pair::{ECHO, PORT, Pair, hello, spiffe};
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;
use nix::sys::signal::Signal;

/// Another address for a service.
const OTHER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 96, 0, 20)), 80);

fn revision(agent: &Agent) -> f64 {
    agent.metrics().unwrap().sum("mesh_applied_revision", &[])
}

/// Changes the configuration, and waits until it is in force in the kernel of each agent's node.
fn apply(agents: &[&Agent], change: impl FnOnce()) {
    let before: Vec<_> = agents.iter().map(|agent| revision(agent)).collect();
    change();
    for (agent, before) in agents.iter().zip(before) {
        let newer = || (revision(agent) > before).then_some(());
        eventually("the configuration to be in force", DEADLINE, newer).unwrap();
    }
}

/// One echo from `pod`; the version that answered, or what went wrong.
fn ask(pod: &Pod, to: SocketAddr) -> Result<String, String> {
    let totals = Client::to(to).echo("hello").run(pod).unwrap().totals;
    match totals.errors.into_keys().next() {
        Some(error) => Err(error),
        None => Ok(totals.versions.into_keys().next().unwrap()),
    }
}

/// Two versions behind the service, by weight.
fn split(pair: &Pair, other: &Pod, (v1, v2): (u32, u32)) -> Mesh {
    let workload = |pod: &Pod, version: &str| {
        let workload = Workload::of(pod).account("echo").port(PORT);
        workload.label("app", "echo").label("version", version)
    };
    let service = |name: &str, last: u8| {
        let at = Ipv4Addr::new(10, 96, 0, last);
        Service::new(name).at(at).select("app", "echo").port(ECHO.port(), PORT)
    };
    Mesh::new("demo")
        .workload(&Workload::of(&pair.client).account("client"))
        .workload(&workload(&pair.echo, "v1"))
        .workload(&workload(other, "v2"))
        .service(&service("echo", 10))
        .service(&service("echo-v1", 11).select("version", "v1"))
        .service(&service("echo-v2", 12).select("version", "v2"))
        .route(&Route::new("echo", 80).to("echo-v1", 80, v1).to("echo-v2", 80, v2))
}

#[test]
fn a_hundred_reloads_under_load_fail_no_connection() {
    let pair = Pair::new().unwrap();
    let other = pair.b.pod("echo-v2").unwrap();
    pair.config.write(&split(&pair, &other, (50, 50))).unwrap();
    let (a, b) = (pair.agent(&pair.a, &[]).unwrap(), pair.agent(&pair.b, &[]).unwrap());
    let _v1 = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let _v2 = Server::echo(&other, PORT, "v2").unwrap();
    let traffic: Vec<_> = [Client::to(ECHO), Client::to(pair.echo.at6(PORT))]
        .into_iter()
        .map(|to| to.echo("x").times(1, 2).arg("--rate").arg("200").traffic(&pair.client).unwrap())
        .collect();
    let (mut held, _opened) = hello().times(4, 4).hold(&pair.client).unwrap();
    for round in 0..100 {
        let weights = if round % 2 == 0 { (90, 10) } else { (10, 90) };
        apply(&[&a], || pair.config.write(&split(&pair, &other, weights)).unwrap());
    }
    apply(&[&a, &b], || pair.config.write(&split(&pair, &other, (0, 1))).unwrap());
    assert_eq!((held.mark().unwrap().failed, held.stop().unwrap().connections), (0, 4));
    for traffic in traffic {
        let totals = traffic.stop().unwrap();
        assert_eq!(totals.failed, 0, "{totals:?}");
        assert!(totals.connections > 50, "there was too little traffic: {totals:?}");
    }
    let last = hello().times(40, 8).run(&pair.client).unwrap();
    assert_eq!((last.totals.failed, last.totals.share("v2")), (0, 1.0));
    for agent in [&a, &b] {
        let failed = agent.metrics().unwrap().sum("istio_tcp_connections_failed_total", &[]);
        assert_eq!(failed.to_string(), "0");
    }
}

#[test]
fn a_bad_document_harms_nothing_else_and_stays_as_it_was() {
    let pair = Pair::new().unwrap();
    let extra = |port: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: extra, namespace: demo}}\nspec:\n  \
             clusterIP: {}\n  selector: {{app: echo}}\n  ports:\n  - {{port: 80, targetPort: {PORT}, protocol: {port}}}\n",
            OTHER.ip()
        )
    };
    pair.config.write_file("extra.yaml", &extra("TCP")).unwrap();
    let (a, _b) = (pair.agent(&pair.a, &[]).unwrap(), pair.agent(&pair.b, &[]).unwrap());
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let conditions = || a.conditions().unwrap().as_array().unwrap().clone();
    assert_eq!(conditions(), Vec::<serde_json::Value>::new());
    assert_eq!(ask(&pair.client, OTHER).as_deref(), Ok("v1"));

    let broken = extra("TCP").replace("port: 80,", "port: eighty,");
    apply(&[&a], || pair.config.write_file("extra.yaml", &broken).unwrap());
    let all = conditions();
    let [condition] = all.as_slice() else { panic!("{all:?}") };
    assert!(condition["file"].as_str().unwrap().ends_with("extra.yaml"), "{condition}");
    assert_eq!((&condition["document"], &condition["line"]), (&1.into(), &8.into()));
    assert_eq!(condition["field"], "spec.ports[0].port");
    assert_eq!(condition["subject"], "Service demo/extra");
    assert_eq!(ask(&pair.client, OTHER).as_deref(), Ok("v1"), "what was last good");
    assert_eq!(ask(&pair.client, ECHO).as_deref(), Ok("v1"));

    // Another file changes meanwhile, and that is in force.
    let third = SocketAddr::new(Ipv4Addr::new(10, 96, 0, 30).into(), 80);
    let more = Service::new("third").at(third.ip()).select("app", "echo").port(80, PORT);
    apply(&[&a], || pair.config.write(&pair.mesh().service(&more)).unwrap());
    assert_eq!(ask(&pair.client, third).as_deref(), Ok("v1"));
    assert_eq!(conditions().len(), 1);

    apply(&[&a], || pair.config.write_file("extra.yaml", &extra("TCP")).unwrap());
    assert_eq!(conditions(), Vec::<serde_json::Value>::new());
    assert_eq!(ask(&pair.client, OTHER).as_deref(), Ok("v1"));
}

#[test]
fn a_workload_comes_and_goes() {
    let pair = Pair::new().unwrap();
    let (a, _b) = (pair.agent(&pair.a, &[]).unwrap(), pair.agent(&pair.b, &[]).unwrap());
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    // Its document is there before its namespace. The second pod has the address after the first.
    let netns = pair.client.netns().path();
    let netns = netns.to_str().unwrap().replace("client", "late");
    let address = Ipv4Addr::from(u32::from(pair.client.v4()) + 1);
    let document = format!(
        "apiVersion: nodemesh.dev/v1alpha1\nkind: Workload\nmetadata: {{name: late, namespace: demo}}\n\
         spec:\n  node: {}\n  addresses: [{address}]\n  serviceAccount: late\n  netns: {netns}\n",
        pair.a.name()
    );
    apply(&[&a], || pair.config.write(&pair.mesh().raw(document.clone())).unwrap());
    let late = pair.a.pod("late").unwrap();
    assert_eq!((late.v4(), late.netns().path().to_str()), (address, Some(netns.as_str())));
    let id = spiffe("late");
    eventually("the workload to be enrolled", DEADLINE, || {
        let metrics = a.metrics().unwrap();
        let expiry = metrics.sum("mesh_certificate_expiry_seconds", &[("identity", &id)]);
        (expiry > 0.0 && ask(&late, ECHO).is_ok()).then_some(())
    })
    .unwrap();
    a.logged("its connection", |line| line["source_principal"] == id.as_str()).unwrap();
    let (mut held, opened) = Client::to(ECHO).echo("hello").hold(&late).unwrap();
    assert_eq!(opened.failed, 0);

    pair.config.write(&pair.mesh()).unwrap();
    // Waits for the end of the connection, which nobody touches.
    a.logged("the cut", |line| {
        line["source_principal"] == id.as_str() && line["failure"] == "shutdown"
    })
    .unwrap();
    assert_eq!(held.mark().unwrap().errors.keys().collect::<Vec<_>>(), ["exchange ECONNRESET"]);
    let refused = ask(&late, ECHO).unwrap_err();
    assert!(refused.starts_with("connect "), "{refused}");
    assert_ne!(refused, "connect ECONNREFUSED", "it is still captured");
    let direct = Client::to(pair.echo.at(PORT)).echo("hello").run(&late).unwrap();
    let direct = direct.single().unwrap();
    let seen = direct.banner.unwrap().peer.port();
    assert_eq!(seen, direct.local.unwrap().port(), "it went by way of an agent");
    assert_eq!(ask(&pair.client, ECHO).as_deref(), Ok("v1"));
}

#[test]
fn a_virtual_address_moves() {
    let pair = Pair::new().unwrap();
    let (a, _b) = (pair.agent(&pair.a, &[]).unwrap(), pair.agent(&pair.b, &[]).unwrap());
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let (mut held, opened) = hello().hold(&pair.client).unwrap();
    assert_eq!(opened.failed, 0);
    let moved = pair.mesh().yaml().replace(&ECHO.ip().to_string(), &OTHER.ip().to_string());
    apply(&[&a], || pair.config.write_file("mesh.yaml", &moved).unwrap());
    assert_eq!(ask(&pair.client, OTHER).as_deref(), Ok("v1"));
    let gone = ask(&pair.client, ECHO).unwrap_err();
    assert!(gone.starts_with("connect "), "{gone}");
    assert_eq!(held.mark().unwrap().failed, 0, "what is open goes on");
}

/// As logrotate does: rename, signal, and pack the old file at once.
#[test]
fn the_access_log_is_rotated_under_load_and_no_line_is_lost() {
    let pair = Pair::new().unwrap();
    let (mut a, _b) = (pair.agent(&pair.a, &[]).unwrap(), pair.agent(&pair.b, &[]).unwrap());
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let traffic = hello().times(1, 2).arg("--rate").arg("200").traffic(&pair.client).unwrap();
    let folder = pair.lab.state().join(pair.a.name());
    let path = folder.join("access.log");
    let mut rotated = vec![];
    for n in 1..=5 {
        let has_lines = || std::fs::metadata(&path).is_ok_and(|it| it.len() > 0).then_some(());
        eventually("lines in the new file", DEADLINE, has_lines).unwrap();
        let old = folder.join(format!("access.log.{n}"));
        std::fs::rename(&path, &old).unwrap();
        a.signal(Signal::SIGHUP).unwrap();
        eventually("the agent to say that it has reloaded", DEADLINE, || {
            (a.log().matches("access_log_reopened=true").count() == n).then_some(())
        })
        .unwrap();
        let text = std::fs::read_to_string(&old).unwrap();
        assert!(text.ends_with('\n'), "a part of a line");
        rotated.push((old, text));
    }
    let totals = traffic.stop().unwrap();
    assert_eq!(totals.failed, 0, "{:?}", totals.errors);
    eventually("every line", DEADLINE, || {
        let old: usize = rotated.iter().map(|(_path, text)| text.lines().count()).sum();
        let all = old + a.access_log().ok()?.len();
        (u64::try_from(all).ok()? == totals.connections).then_some(())
    })
    .unwrap();
    for (old, text) in rotated {
        assert_eq!(std::fs::read_to_string(&old).unwrap(), text, "written to after the reload");
    }
    assert_eq!(a.terminate().unwrap().code(), Some(0));
}
