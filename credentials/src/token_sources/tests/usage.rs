//! What is said of the tokens of today, in the course of time and whatever becomes of the source.

use super::*;

mod resumed;

/// Users alone have tokens.
fn users_only(quota: Option<u64>) -> Desired {
    let mut desired = client_credentials();
    if let DesiredSource::OAuth2(configuration) = &mut desired.source {
        configuration.exchanges = true;
        configuration.service_token = false;
        configuration.quota = quota;
    }
    desired
}

impl Operator {
    /// So many users get tokens now.
    fn users(&self, users: usize) {
        let count = self.sources.sources.lock()[&ResourceRef::from(&resource())]
            .count
            .clone();
        for _ in 0..users {
            count.record_issued(true, self.sources.clock.now());
        }
    }

    fn usage(&self) -> Option<TokenUsage> {
        self.credentials.get(&resource()).issuance.token.usage
    }

    fn reason(&self) -> String {
        crate::conditions::token_issued(&self.credentials.get(&resource()).issuance).reason
    }
}

async fn sleep_minutes(minutes: u64) {
    tokio::time::sleep(std::time::Duration::from_secs(60 * minutes)).await;
}

/// From eight in the morning on.
#[tokio::test(start_paused = true)]
async fn a_busy_morning_is_no_forecast_any_more_once_the_users_are_gone() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let operator = operator();
    operator.sources.apply(&resource(), Ok(users_only(Some(1000))));
    operator.users(200);
    operator.sources.apply(&resource(), Ok(users_only(Some(1000))));
    assert_eq!(operator.reason(), reasons::QUOTA_FORECAST);
    // Nobody comes, and nothing else happens.
    sleep_minutes(71).await;
    assert_eq!(operator.usage().unwrap().today.forecast, 200);
    assert_eq!(operator.reason(), reasons::USER_TOKENS_ONLY);
    sleep_minutes(15 * 60).await;
    assert_eq!(operator.usage().unwrap().today.issued, 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_quota_the_tokens_of_users_are_counted_as_they_come_and_those_of_yesterday_are_not_today_s()
{
    let _ = rustls::crypto::ring::default_provider().install_default();
    let operator = operator();
    operator.sources.apply(&resource(), Ok(users_only(None)));
    assert_eq!(operator.usage(), None);
    operator.users(1);
    operator.sources.apply(&resource(), Ok(users_only(None)));
    for expected in [1, 4, 7] {
        assert_eq!(operator.usage().unwrap().today.issued, expected);
        operator.users(3);
        sleep_minutes(11).await;
    }
    sleep_minutes(16 * 60).await;
    assert_eq!(operator.usage(), None);
}

#[tokio::test(start_paused = true)]
async fn what_was_issued_today_is_told_while_the_secret_is_gone_and_no_longer_than_today() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let operator = operator();
    let client = client("tools", json!({"clientId": "litellm"}));
    let usage = || operator.credentials.get(&client).issuance.token.usage.unwrap();
    operator.sources.apply(&client, Ok(users_only(Some(1000))));
    operator.users(40);
    operator.sources.apply(&client, Err(gone()));
    assert_eq!((usage().today.issued, usage().quota), (40, Some(1000)));
    sleep_minutes(17 * 60).await;
    assert_eq!(usage().today.issued, 0);
}

/// Of the client of this name.
fn users_only_of(client_id: &str) -> Desired {
    let mut desired = users_only(Some(1000));
    if let DesiredSource::OAuth2(configuration) = &mut desired.source {
        let client_id = oauth::ClientId::new(client_id.into());
        configuration.registration.client_id = Some(client_id);
        configuration.request_digest = RequestDigest::new(&resource().spec, &[("clientId", "other".into())]);
    }
    desired
}

#[tokio::test(start_paused = true)]
async fn tokens_count_for_the_client_that_they_were_issued_to_whichever_the_resource_has_now() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let operator = operator();
    let [tools, mail] = ["tools", "mail"].map(|name| client(name, json!({"clientId": "litellm"})));
    let usage = |resource| operator.credentials.get(resource).issuance.token.usage;
    let of_client = |resource| usage(resource).map(|usage| usage.of_client());
    operator.sources.apply(&tools, Ok(users_only(Some(1000))));
    operator.sources.apply(&mail, Ok(users_only(Some(1000))));
    operator.users(40);
    operator.sources.apply(&tools, Ok(users_only(Some(1000))));
    operator.sources.apply(&mail, Ok(users_only(Some(1000))));
    assert_eq!(of_client(&mail).unwrap().0, 40);

    operator.sources.apply(&tools, Ok(users_only_of("another")));
    operator.sources.apply(&mail, Ok(users_only(Some(1000))));
    assert_eq!(of_client(&tools), Some((0, 0)), "it was issued none");
    assert_eq!(of_client(&mail), Some((40, 40)));
    let client = usage(&mail).unwrap().client.unwrap();
    assert_eq!((client.resources, client.issued_to_former), (1, 40));

    // It has no client any more.
    operator.users(3);
    operator.sources.apply(&tools, Ok(secret("opaque")));
    assert_eq!(usage(&tools), None);
    sleep_minutes(17 * 60).await;
    operator.sources.apply(&mail, Ok(users_only(Some(1000))));
    assert_eq!(
        (of_client(&mail), usage(&mail).unwrap().client),
        (Some((0, 0)), None)
    );

    // Nor when the Secret of its token is gone.
    operator.sources.apply(&tools, Ok(users_only(Some(1000))));
    operator.sources.apply(&resource(), Err(gone()));
    operator.sources.apply(&mail, Ok(users_only(Some(1000))));
    assert_eq!(usage(&mail).unwrap().client, None);
}

/// By a token endpoint of its own, which answers each request with the token of a user.
#[tokio::test]
async fn the_first_user_s_token_is_told_without_a_quota() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !String::from_utf8_lossy(&request).contains("subject_token=") {
            assert_ne!(connection.read_buf(&mut request).await.unwrap(), 0);
        }
        let token = json!({
            "access_token": "of-the-us3r", "token_type": "Bearer", "expires_in": 3600,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        })
        .to_string();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
        let answer = format!("{head}content-length: {}\r\n\r\n{token}", token.len());
        connection.write_all(answer.as_bytes()).await.unwrap();
    });
    let mut desired = users_only(None);
    if let DesiredSource::OAuth2(configuration) = &mut desired.source {
        configuration.registration.server = oauth::ServerLocation::Endpoints {
            token_url: url,
            revocation_url: None,
        };
    }
    let mut operator = operator();
    // The one that clients have.
    operator.sources = TokenSources::new(Clock::system(), NoMetrics, operator.credentials.clone());
    operator.sources.apply(&resource(), Ok(desired));
    assert_eq!(operator.usage(), None);
    let exchanger = operator.credentials.exchanger(&resource()).unwrap();
    exchanger.credential(&"subject".into(), None).await.unwrap();
    assert_eq!(operator.usage().unwrap().today.issued, 1);
}
