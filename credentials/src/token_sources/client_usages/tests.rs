use mcp_auth_oauth::{Client, ClientAuthentication, IssuedToken, Registration};

use super::*;

const HOUR: i64 = 3600;

/// Six in the evening.
fn after(seconds: i64) -> Timestamp {
    let evening: Timestamp = "2030-01-01T18:00:00Z".parse().unwrap();
    Timestamp::from_second(evening.as_second() + seconds).unwrap()
}

fn resource(name: &str) -> ResourceRef {
    ResourceRef {
        namespace: "apps".into(),
        name: name.into(),
    }
}

fn client(scope: &str) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let secret = ClientAuthentication::SecretPost("t0p-s3cret".into());
    let registration = Registration {
        scopes: vec![mcp_auth_oauth::Scope::new(scope.into())],
        ..Registration::new("https://login.example.com/token", "litellm", secret)
    };
    Client::new(registration).unwrap()
}

fn token(text: &str) -> Arc<Token> {
    let issued = IssuedToken::bearer(text);
    Arc::new(Token::handed_over(issued, after(0), Some(after(HOUR))))
}

/// A resource of the client that asks for this scope.
fn counted(count: &TokenCount, scope: &str, text: &str, next: i64, quota: Option<u64>) -> CountedResource {
    let client = client(scope);
    CountedResource {
        count: count.clone(),
        client: client
            .identity(None)
            .map_or(CountedClient::Alone, CountedClient::Known),
        is_awaited: false,
        service: Some(ServiceToken {
            token: Some(token(text)),
            next_attempt_at: after(next),
            shared_as: client.token_digest(),
        }),
        quota,
        former_client: None,
    }
}

fn requested_at(seconds: i64) -> TokenCount {
    let count = TokenCount::default();
    count.record_issued(false, after(seconds));
    count
}

fn forecast(current: &CurrentUsage) -> Option<u64> {
    current.usage.as_ref().map(|usage| usage.today.forecast)
}

#[test]
fn the_renewals_of_a_shared_token_are_expected_once_and_where_the_last_one_was_requested() {
    let mut usages = ClientUsages::default();
    let (mail, wiki) = (requested_at(0), TokenCount::default());
    usages.update(
        &resource("mail"),
        counted(&mail, "tools", "first", 2400, None),
        after(1),
    );
    let of_wiki = counted(&wiki, "tools", "first", 2350, Some(100));
    let told = usages.update(&resource("wiki"), of_wiki, after(1)).usage.unwrap();
    // At 18:39:10, and every 2350 s from then on: of the client, and of the one that requests.
    assert_eq!((told.today.issued, told.today.forecast), (0, 0));
    let of_client = told.client.unwrap();
    assert_eq!((of_client.issued, of_client.forecast), (1, 1 + 1 + 8));
    assert_eq!(
        *of_client.largest,
        [("mail".to_owned(), 10), ("wiki".to_owned(), 0)]
    );

    // The other is the first to renew; the one with the older token is to take that one, and requests none.
    wiki.record_issued(false, after(2350));
    let of_wiki = counted(&wiki, "tools", "second", 2350 + 2400, Some(100));
    let told = usages
        .update(&resource("wiki"), of_wiki, after(2351))
        .usage
        .unwrap();
    let of_client = told.client.unwrap();
    assert_eq!(told.today.forecast, 1 + 1 + 7);
    assert_eq!((of_client.issued, of_client.forecast), (2, 10));
}

#[test]
fn tokens_of_one_client_for_different_scopes_add_up_and_its_resources_are_named_by_what_they_take() {
    let mut usages = ClientUsages::default();
    let (mail, wiki) = (requested_at(0), requested_at(0));
    let of_mail = counted(&mail, "mail", "of-mail", 3 * HOUR, None);
    usages.update(&resource("mail"), of_mail, after(1));
    let of_wiki = counted(&wiki, "wiki", "of-wiki", HOUR, Some(7));
    let told = usages.update(&resource("wiki"), of_wiki, after(1)).usage.unwrap();
    assert_eq!(told.today.forecast, 6, "alone it would do");
    let of_client = told.client.clone().unwrap();
    assert_eq!(
        *of_client.largest,
        [("wiki".to_owned(), 6), ("mail".to_owned(), 2)]
    );
    assert_eq!(told.of_client(), (2, 8));

    // Another namespace is told nothing of it, and another client's tokens are its own.
    let elsewhere = ResourceRef {
        namespace: "other".into(),
        name: "wiki".into(),
    };
    let of_elsewhere = counted(&wiki, "wiki", "of-wiki", HOUR, Some(7));
    let told = usages.update(&elsewhere, of_elsewhere, after(1)).usage.unwrap();
    assert_eq!(told.client, None);
    let nobody = CountedResource {
        client: CountedClient::Alone,
        ..counted(&requested_at(0), "wiki", "of-nobody", HOUR, Some(7))
    };
    let told = usages
        .update(&resource("nobody"), nobody, after(1))
        .usage
        .unwrap();
    assert_eq!((told.of_client(), told.client), ((1, 6), None));
}

#[test]
fn who_states_a_quota_is_told_anew_when_another_resource_of_the_client_makes_the_difference() {
    let mut usages = ClientUsages::default();
    let (mail, wiki) = (requested_at(0), requested_at(0));
    let of_wiki = || counted(&wiki, "wiki", "of-wiki", HOUR, Some(7));
    let alone = usages.update(&resource("wiki"), of_wiki(), after(1));
    assert_eq!((forecast(&alone), alone.client_quota), (Some(6), Some(7)));
    let of_mail = || counted(&mail, "mail", "of-mail", 3 * HOUR, None);
    let beside = usages.update(&resource("mail"), of_mail(), after(1));
    assert_eq!(beside.news_of, [resource("wiki")]);
    assert_eq!(beside.client_quota, Some(7), "its users' tokens count towards it");
    usages.update(&resource("wiki"), of_wiki(), after(1));
    let same = usages.update(&resource("mail"), of_mail(), after(2));
    assert_eq!(same.news_of, [], "it was said");

    // It is another client's, or gone.
    let moved = CountedResource {
        client: CountedClient::Alone,
        ..of_mail()
    };
    assert_eq!(
        usages.update(&resource("mail"), moved, after(3)).news_of,
        [resource("wiki")]
    );
    usages.update(&resource("wiki"), of_wiki(), after(3));
    usages.update(&resource("mail"), of_mail(), after(4));
    usages.update(&resource("wiki"), of_wiki(), after(4));
    assert_eq!(usages.remove(&resource("mail"), after(5)), [resource("wiki")]);
    assert_eq!(usages.remove(&resource("mail"), after(5)), []);
}

/// Each time that a pod of the namespace changes, all of its resources are looked at in one moment.
#[test]
fn hundreds_of_resources_of_one_client_are_added_up_once_in_a_moment_and_not_where_none_states_a_quota() {
    let counts: Vec<_> = (0..500).map(|_| requested_at(0)).collect();
    let identity = client("tools").identity(None).unwrap();
    let token = token("of-tools");
    let look = |usages: &mut ClientUsages, quota: Option<u64>, at: i64| {
        for (index, count) in counts.iter().enumerate() {
            let service = ServiceToken {
                token: Some(token.clone()),
                next_attempt_at: after(HOUR),
                shared_as: None,
            };
            let of_client = CountedResource {
                count: count.clone(),
                client: CountedClient::Known(identity.clone()),
                is_awaited: false,
                service: Some(service),
                quota,
                former_client: None,
            };
            usages.update(&resource(&format!("tools-{index}")), of_client, after(at));
        }
        let added_up = &usages.0["apps"].by_client[&identity].forecast;
        added_up.as_ref().map(|(_, forecast)| forecast.clone())
    };
    let mut usages = ClientUsages::default();
    assert!(look(&mut usages, None, 1).is_none());
    let first = look(&mut usages, Some(100), 1).unwrap();
    assert_eq!((first.total.issued, first.total.resources), (500, 500));
    assert_eq!(first.total.largest.len(), ClientUsage::MAX_NAMED);
    assert!(Arc::ptr_eq(&first, &look(&mut usages, Some(100), 1).unwrap()));
    // What any of them takes is seen at once.
    counts[7].record_issued(true, after(1));
    let second = look(&mut usages, Some(100), 1).unwrap();
    assert_eq!(second.total.issued, 501);
}

#[test]
fn a_resource_that_shares_no_token_now_is_expected_to_request_its_own() {
    let mut usages = ClientUsages::default();
    let alone = |count: &TokenCount, next| CountedResource {
        service: Some(ServiceToken {
            token: None,
            next_attempt_at: after(next),
            shared_as: None,
        }),
        ..counted(count, "tools", "none", next, Some(1000))
    };
    // Each mints a token that does not fit, every ten minutes.
    let (mail, wiki) = (requested_at(0), requested_at(0));
    usages.update(&resource("mail"), alone(&mail, 600), after(1));
    let told = usages
        .update(&resource("wiki"), alone(&wiki, 600), after(1))
        .usage
        .unwrap();
    assert_eq!((told.today.forecast, told.of_client().1), (36, 72));
    // What requests none any more has what it took.
    let ended = CountedResource {
        service: None,
        ..alone(&mail, 600)
    };
    let ended = usages.update(&resource("mail"), ended, after(2));
    assert_eq!(forecast(&ended), Some(1));
}
