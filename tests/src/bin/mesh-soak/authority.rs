//! Certificates of nodes and of the mesh that are replaced.

use std::collections::BTreeSet;

use anyhow::Result;
use mesh_tests::agent::Agent;
use mesh_tests::expect::eventually;
use mesh_tests::pair::TRUST_DOMAIN;
use mesh_tests::process::DEADLINE;
use serde_json::Value;

use crate::world::World;

/// Has node `n` use another certificate, and its workloads with it.
pub(crate) fn rotate(world: &World, n: usize) -> Result<()> {
    let agent = world.agent(n);
    let before = issuers(agent);
    world.pair.authority.renew(agent.node().name())?;
    signed_anew(agent, &before)
}

/// Replaces the mesh's root, as docs/identity.md says.
pub(crate) fn replace_root(world: &mut World) -> Result<()> {
    let agents = [world.agent(0), world.agent(1)];
    let former = &world.pair.authority;
    let next = former.next(TRUST_DOMAIN)?;
    for agent in agents {
        next.trust(agent.node().name(), &[former, &next])?;
    }
    agents.iter().try_for_each(|agent| trusts(agent, 2))?;
    let before = agents.map(issuers);
    for agent in agents {
        next.renew(agent.node().name())?;
    }
    for (agent, before) in agents.into_iter().zip(&before) {
        signed_anew(agent, before)?;
    }
    for agent in agents {
        next.trust(agent.node().name(), &[&next])?;
    }
    agents.iter().try_for_each(|agent| trusts(agent, 1))?;
    world.pair.authority = next;
    Ok(())
}

/// Waits until no certificate of the agent is signed by one of `before`.
fn signed_anew(agent: &Agent, before: &BTreeSet<String>) -> Result<()> {
    eventually("certificates by the node's new one", DEADLINE, || {
        let now = issuers(agent);
        (!now.is_empty() && now.is_disjoint(before)).then_some(())
    })
}

/// Waits until the agent trusts so many roots.
fn trusts(agent: &Agent, count: usize) -> Result<()> {
    eventually(&format!("{count} trusted roots"), DEADLINE, || {
        (certs(agent)["roots"].as_array()?.len() == count).then_some(())
    })
}

/// The serial numbers of the certificates that have signed those in use.
fn issuers(agent: &Agent) -> BTreeSet<String> {
    let certs = certs(agent);
    let held = certs["certificates"].as_array().into_iter().flatten();
    let serials = held.filter_map(|held| held["issuers"][0]["serialNumber"].as_str());
    serials.map(str::to_owned).collect()
}

/// The certificates in use. `null` while the agent does not answer.
fn certs(agent: &Agent) -> Value {
    let body = agent.get("/certs").ok().filter(|(status, _)| *status == 200);
    body.and_then(|(_, body)| serde_json::from_str(&body).ok()).unwrap_or_default()
}
