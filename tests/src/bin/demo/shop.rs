//! The shop: a service of HTTP whose second version is delivered step by step, and a shadow of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Result;
use mesh_tests::http::{Web, route};
use mesh_tests::mesh::{Mesh, Service, Workload};
use mesh_tests::node::Node;
use mesh_tests::pod::Pod;

use crate::world::PORT;

/// The virtual address of the service.
pub(crate) const SHOP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 20)), 80);

/// The file that has its route, and that is edited.
pub(crate) const FILE: &str = "shop.yaml";

/// The header by which testers are known, and its value.
pub(crate) const TESTER: (&str, &str) = ("x-canary", "yes");

/// The versions' names for themselves.
pub(crate) const STABLE: &str = "v1";
pub(crate) const CANARY: &str = "v2";

/// Where the versions run.
#[derive(Debug)]
pub(crate) struct Pods {
    /// The stable version, on both nodes.
    pub stable: [Pod; 2],
    pub canary: Pod,
    pub shadow: Pod,
}

/// Their servers.
#[derive(Debug)]
pub(crate) struct Shop {
    pub stable: [Web; 2],
    pub canary: Web,
    pub shadow: Web,
}

/// Where requests go.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Routing {
    /// Whether testers go to the canary, whatever its weight is.
    pub testers: bool,
    /// The share of all others that goes to the canary, in percent. `None`: it is no backend.
    pub weight: Option<u32>,
}

impl Pods {
    /// Makes them.
    pub(crate) fn create(a: &Node, b: &Node) -> Result<Self> {
        Ok(Self {
            stable: [a.pod("shop-v1-a")?, b.pod("shop-v1-b")?],
            canary: b.pod("shop-v2")?,
            shadow: b.pod("shop-shadow")?,
        })
    }

    /// Starts a server in each of them.
    pub(crate) fn serve(&self) -> Result<Shop> {
        let start = |pod: &Pod, name| Web::start(pod, name, &[PORT]);
        let [a, b] = &self.stable;
        Ok(Shop {
            stable: [start(a, STABLE)?, start(b, STABLE)?],
            canary: start(&self.canary, CANARY)?,
            shadow: start(&self.shadow, "shadow")?,
        })
    }

    /// Adds the workloads and services to the mesh's configuration.
    pub(crate) fn describe(&self, mesh: Mesh) -> Mesh {
        let workload = |pod: &Pod, app: &str, version: &str| {
            let workload = Workload::of(pod).account("shop").port(PORT);
            workload.label("app", app).label("version", version)
        };
        let service = |name: &str, last: u8, app: &str| {
            let service = Service::new(name).at(Ipv4Addr::new(10, 96, 0, last));
            service.port_of(SHOP.port(), PORT, "http").select("app", app)
        };
        let [a, b] = &self.stable;
        mesh.workload(&workload(a, "shop", "v1"))
            .workload(&workload(b, "shop", "v1"))
            .workload(&workload(&self.canary, "shop", "v2"))
            .workload(&workload(&self.shadow, "shop-shadow", "v3"))
            .service(&service("shop", 20, "shop"))
            .service(&service("shop-v1", 21, "shop").select("version", "v1"))
            .service(&service("shop-v2", 22, "shop").select("version", "v2"))
            .service(&service("shop-shadow", 23, "shop-shadow"))
    }
}

impl Routing {
    /// The share of the users that the canary has, in percent.
    pub(crate) fn share(self) -> u32 {
        self.weight.unwrap_or_default()
    }

    /// The route. The shadow has a copy of each request.
    pub(crate) fn yaml(self) -> String {
        let shadow = "{name: shop-shadow, port: 80}";
        let mirror = format!("requestMirror: {{percent: 100, backendRef: {shadow}}}");
        let filters = format!("filters: [{{type: RequestMirror, {mirror}}}]");
        let mut rules = String::new();
        if self.testers {
            let (name, value) = TESTER;
            rules = format!(
                "  - name: testers
    matches: [{{headers: [{{name: {name}, value: \"{value}\"}}]}}]
    {filters}
    backendRefs: [{{name: shop-v2, port: 80}}]
"
            );
        }
        let backends = match self.weight {
            None => "    - {name: shop-v1, port: 80}".to_owned(),
            Some(canary) => format!(
                "    - {{name: shop-v1, port: 80, weight: {}}}
    - {{name: shop-v2, port: 80, weight: {canary}}}",
                100 - canary
            ),
        };
        let everybody = format!("  - name: everybody\n    {filters}\n    backendRefs:\n{backends}");
        route::http("demo", "shop", "name: shop, port: 80", &(rules + &everybody))
    }
}
