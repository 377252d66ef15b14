//! Renewed tokens of two tenants at the same time: one with many resources and pods, and one with one of each.

use std::time::Instant;

use futures::future::try_join_all;
use mcp_auth_protocol::sync::Snapshot;
use mcp_auth_tests::resource::resource;
use mcp_auth_tests::seen;
use mcp_auth_tests::sidecar::{Sidecar, bearer};
use mcp_auth_tests::world::World;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::service::Service;
use crate::tenants::operator_of_both;

/// Of the crowd. All of its tokens come from one Secret, so that each change of that is one of all of them.
const RESOURCES: usize = 100;
const PODS: usize = 60;
const ROUNDS: usize = 5;

fn server(number: usize) -> String {
    format!("tools_{number}")
}

async fn tenant(namespace: &str, resources: usize) -> World {
    let world = World::new(namespace, false).await;
    renew(&world, 0).await;
    for number in 0..resources {
        let given = json!({"bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}}});
        let resource = resource(&format!("tools-{number}"), &server(number), given);
        world.apply(&resource).await.unwrap();
    }
    world
}

fn token(round: usize) -> String {
    format!("r3newed-t0ken-{round}")
}

async fn renew(world: &World, round: usize) {
    let token = token(round);
    seen::note(&token);
    world.secret("token", "token", &token).await;
}

async fn sidecar(world: &World, name: &str) -> Sidecar {
    let labels = json!({"app.kubernetes.io/name": "litellm"});
    let pod = world.pod(name, labels).await;
    Sidecar::in_pod(world, &pod).await
}

/// Until the sidecar has the tokens of this round of all resources; when that was. On a task of its own, so that what the test reads of the
/// one sidecar is not read after what it reads of all others.
fn has_all(mut sidecar: Sidecar, resources: usize, round: usize) -> JoinHandle<(Sidecar, Instant)> {
    tokio::spawn(async move {
        let token = token(round);
        let is_renewed = |snapshot: &Snapshot| {
            (0..resources).all(|number| bearer(snapshot, &server(number)).as_ref() == Some(&token))
        };
        sidecar.until(is_renewed).await;
        (sidecar, Instant::now())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_token_of_one_tenant_reaches_its_sidecar_before_the_last_of_a_crowd_of_another_has_its_own()
{
    let (crowd, quiet) = tokio::join!(tenant("renewals-crowd", RESOURCES), tenant("renewals-quiet", 1));
    let service = Service::start().await;
    let operator = operator_of_both("renewals", &crowd, &quiet, []);
    let replica = operator.start("renewals", None, None).await;
    replica.until_leads().await;
    service.lead_to([replica.address.clone()]).await;
    let mut of_crowd = Vec::new();
    for number in 0..PODS {
        of_crowd.push(sidecar(&crowd, &format!("litellm-{number}")).await);
    }
    let mut of_quiet = sidecar(&quiet, "litellm").await;
    let mut was_earlier = 0;
    for round in 0..=ROUNDS {
        let at_quiet = has_all(of_quiet, 1, round);
        let at_crowd = of_crowd.into_iter();
        let at_crowd: Vec<_> = at_crowd
            .map(|sidecar| has_all(sidecar, RESOURCES, round))
            .collect();
        if round > 0 {
            tokio::join!(renew(&crowd, round), renew(&quiet, round));
        }
        let (sidecar, renewed) = at_quiet.await.unwrap();
        of_quiet = sidecar;
        let (sidecars, all_renewed): (Vec<_>, Vec<_>) =
            try_join_all(at_crowd).await.unwrap().into_iter().unzip();
        of_crowd = sidecars;
        let last = all_renewed.into_iter().max().unwrap();
        was_earlier += usize::from(round > 0 && renewed <= last);
    }
    // Other work of the machine may change the order now and then.
    assert!(was_earlier > ROUNDS / 2, "in {was_earlier} of {ROUNDS} rounds");
}
