//! How many tokens of sidecars the API server is asked about at once.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use mcp_auth_protocol::pod::AUDIENCE;
use mcp_auth_tests::process::{api_server_port, connections_to};
use mcp_auth_tests::sidecar::{authority_pem, report, token};
use mcp_auth_tests::upgraded_stream::{self, Answer};
use mcp_auth_tests::wait::{LIMIT, until};
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::fleet::Fleet;
use crate::tests::signal;

const BOUND: usize = 24;
/// Connections to the API server that come for other reasons meanwhile, such as a look at the Lease.
const OTHERS: usize = 10;

/// As where a replica has gone, and another one has all its sidecars. The API server answers nothing meanwhile, so that each
/// TokenReview that is sent has a connection, and there are no more of these than those at rest and the TokenReviews.
#[tokio::test]
async fn of_sidecars_that_come_all_together_few_tokens_are_reviewed_at_once() {
    let fleet = Fleet::start("reviews").await;
    let mut identities = Vec::new();
    for number in 0..3 * BOUND {
        let labels = json!({"app.kubernetes.io/name": "litellm"});
        let pod = fleet.world.pod(&format!("litellm-many-{number}"), labels).await;
        let mut first = serde_json::to_vec(&report(&pod)).unwrap();
        first.push(b'\n');
        identities.push((
            token(&fleet.world, AUDIENCE, Some(&pod)).await,
            Bytes::from(first),
        ));
    }
    let replica = &fleet.replicas[0];
    let address: SocketAddr = replica.address.parse().unwrap();
    let tls = upgraded_stream::tls(&authority_pem(&fleet.world).await);
    let connections = {
        let (process, port) = (replica.id(), api_server_port());
        move || connections_to(process, port)
    };
    let at_rest = connections();

    signal("MCPAUTH_TEST_API_SERVER_PROCESS", "-STOP").await;
    let coming: Vec<_> = identities
        .into_iter()
        .map(|(token, first)| tokio::spawn(served(tls.clone(), address, token, first)))
        .collect();
    let waiting = async || connections();
    until("reviews to wait for the API server", waiting, |now| {
        *now >= at_rest + BOUND / 2
    })
    .await;
    // What comes later, and needs no review, has its answer: those before it have been looked at.
    for _ in 0..BOUND {
        let answer = open(tls.clone(), address, "no token at all".to_owned(), Bytes::new()).await;
        assert!(matches!(answer, Answer::Refused(status, _) if status == 401));
    }
    let most = connections();
    signal("MCPAUTH_TEST_API_SERVER_PROCESS", "-CONT").await;
    assert!(
        most <= at_rest + BOUND + OTHERS,
        "{most} connections, {at_rest} at rest"
    );
    for sidecar in coming {
        tokio::time::timeout(LIMIT, sidecar)
            .await
            .expect("all are served")
            .unwrap();
    }
}

/// As a sidecar does it, which tries again where the API server has not answered in time.
async fn served(tls: TlsConnector, address: SocketAddr, token: String, first: Bytes) {
    loop {
        match open(tls.clone(), address, token.clone(), first.clone()).await {
            Answer::Stream(_) => return,
            Answer::Refused(..) => tokio::time::sleep(Duration::from_millis(250)).await,
        }
    }
}

async fn open(tls: TlsConnector, address: SocketAddr, token: String, first: Bytes) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    let stream = tls.connect(ServerName::from(address.ip()), stream).await.unwrap();
    upgraded_stream::open(stream, &address.to_string(), &token, first)
        .await
        .unwrap()
}
