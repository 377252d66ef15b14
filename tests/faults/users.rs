//! Users' own tokens, by whichever replica their sidecar is connected to.

use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use mcp_auth_protocol::sync::Credential;
use mcp_auth_tests::oauth;
use mcp_auth_tests::servers::Server;
use mcp_auth_tests::sidecar::{exchange, token_of};
use serde_json::json;

use crate::fleet::Fleet;

#[tokio::test]
async fn a_user_has_one_token_by_every_replica_and_by_the_next_leaders() {
    let mut fleet = Fleet::start_with("users", json!({"tokenExchange": {"subjectCookie": "session"}})).await;
    let subject = Server::OidcProvider.user_token("alice", &fleet.client).await;
    let pods: Api<Pod> = fleet.world.api();
    let pod = pods.get("litellm-0").await.unwrap();
    let issued = oauth::issued(&fleet.client).await;
    let mut tokens = Vec::new();
    // The Service leads to each replica in turn.
    for _ in 0..4 {
        let credential = exchange(&fleet.world, &pod, "tools", &subject, None)
            .await
            .unwrap();
        tokens.push(token_of(&credential).unwrap());
    }
    tokens.dedup();
    assert_eq!(tokens.len(), 1, "one token, by the leader and by the follower");
    assert_eq!(oauth::issued(&fleet.client).await, issued + 1);

    // Whom no resource entitles is refused by the follower as by the leader.
    let stranger = fleet.world.pod("stranger", json!({"app": "else"})).await;
    for _ in 0..2 {
        let refused = exchange(&fleet.world, &stranger, "tools", &subject, None)
            .await
            .unwrap_err();
        assert_eq!(&*refused.problem.reason, "NotEntitled");
    }

    // The next leader goes on with the token, and so does the one after it, which followed neither of the first two when
    // it was exchanged.
    fleet.add_replica().await;
    fleet.until_followed().await;
    // The exchange that comes while the lead changes waits for the next leader.
    let mut leader = fleet.take_leader().await;
    fleet.lead_service().await;
    let (ended, exchanged) = tokio::join!(
        leader.terminate(),
        exchange(&fleet.world, &pod, "tools", &subject, None),
    );
    assert!(ended);
    assert_eq!(token_of(&exchanged.unwrap()), tokens.first().cloned());
    fleet.until_one_leads().await;
    fleet.until_followed().await;

    // While the Lease of one that crashed runs on, a user whose token is known has it at once, and another user waits for the
    // next leader. The Service still leads to the one that has gone as well.
    let bob = Server::OidcProvider.user_token("bob", &fleet.client).await;
    let mut crashing = fleet.take_leader().await;
    crashing.kill().await;
    let of_bob = exchange(&fleet.world, &pod, "tools", &bob, None);
    let of_alice = async {
        let credential = exchange(&fleet.world, &pod, "tools", &subject, None)
            .await
            .unwrap();
        (token_of(&credential), fleet.replicas[0].leads().await)
    };
    let (of_bob, of_alice) = tokio::join!(of_bob, of_alice);
    assert_eq!(
        of_alice,
        (tokens.first().cloned(), false),
        "by a replica that does not lead yet"
    );
    of_bob.unwrap();
    assert!(fleet.replicas[0].leads().await, "nobody else may ask for a token");
    fleet.lead_service().await;
    fleet.until_one_leads().await;
    let credential = exchange(&fleet.world, &pod, "tools", &subject, None)
        .await
        .unwrap();
    assert_eq!(
        token_of(&credential),
        tokens.first().cloned(),
        "the same by the third leader"
    );
    assert_eq!(
        oauth::issued(&fleet.client).await,
        issued + 2,
        "and none was exchanged twice"
    );

    // A token that the MCP server does not take is not kept to, whoever exchanged it.
    let Credential::Bearer { id, .. } = &credential else {
        panic!("a token");
    };
    let other = exchange(&fleet.world, &pod, "tools", &subject, Some(id))
        .await
        .unwrap();
    assert_ne!(token_of(&other), tokens.first().cloned());
    assert_eq!(oauth::issued(&fleet.client).await, issued + 3);
}
