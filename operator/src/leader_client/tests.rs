use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use mcp_auth_protocol::sync::{Credential, Pod};
use tokio::task::JoinSet;

use super::*;
use crate::http::serve_tls;

/// Of one tenant's users, more than one connection has room for.
const SLOW: usize = 2 * 256;

fn exchange(namespace: &str) -> ForwardedExchange {
    ForwardedExchange {
        namespace: namespace.to_owned(),
        resource: "tools".to_owned(),
        request: ExchangeRequest {
            pod: Pod {
                namespace: namespace.to_owned(),
                name: "litellm-0".to_owned(),
                uid: "u1".to_owned(),
            },
            server: "tools".to_owned(),
            url: "https://tools.example.com/mcp".to_owned(),
            subject_token: "user".into(),
            refused: None,
        },
    }
}

/// A request that is under way, for as long as its sender waits.
struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Answers at once, but for the namespace `slow` never.
async fn answer(
    State(slow): State<Arc<AtomicUsize>>,
    Json(exchange): Json<ForwardedExchange>,
) -> Json<ExchangeResponse> {
    if exchange.namespace == "slow" {
        slow.fetch_add(1, Ordering::SeqCst);
        let _under_way = UnderWay(slow);
        std::future::pending::<()>().await;
    }
    Json(ExchangeResponse {
        credential: Credential::Bearer {
            id: "t1".to_owned(),
            token: "user-token".into(),
            proof_key: None,
            expires_at: None,
        },
        sent_at: None,
    })
}

#[tokio::test]
async fn exchanges_that_an_authorization_server_is_slow_with_keep_no_other_tenants_and_no_follower_waiting() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let slow = Arc::new(AtomicUsize::new(0));
    let router = Router::new()
        .route(EXCHANGE_PATH, post(answer))
        .route(FOLLOW_PATH, post(async || "followed"))
        .with_state(slow.clone());
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let certificates = Certificates::self_made();
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(serve_tls(address, certificates.clone(), router, stopped));
    let token = tempfile::NamedTempFile::new().unwrap();
    let (_leader, leader) = watch::channel(Leader::Other {
        address: Some(address),
        is_confirmed: true,
    });
    let names = ["127.0.0.1".to_owned()];
    let client = LeaderClient::new(certificates, &names, Some(token.path().to_owned()), leader);
    // Once it listens.
    let quick = exchange("quick");
    client.exchange(&quick, || None).await.unwrap();

    let mut waiting = JoinSet::new();
    for _ in 0..SLOW {
        let client = client.clone();
        waiting.spawn(async move { client.exchange(&exchange("slow"), || None).await.map(drop) });
    }
    let all_wait = async {
        while slow.load(Ordering::SeqCst) < SLOW {
            sleep(RETRY_INTERVAL / 10).await;
        }
    };
    // All at once: where they do not fit into the connections, some have ended before the last is asked for.
    tokio::select! {
        () = all_wait => {}
        Some(_) = waiting.join_next() => panic!("one has ended before all were asked for"),
    }
    tokio::select! {
        answer = client.exchange(&quick, || None) => drop(answer.unwrap()),
        Some(_) = waiting.join_next() => panic!("it has waited for a slow one"),
    }
    tokio::select! {
        followed = client.follow("".into()) => assert_eq!(followed.unwrap().text().await.unwrap(), "followed"),
        Some(_) = waiting.join_next() => panic!("it has waited for a slow one"),
    }
}
