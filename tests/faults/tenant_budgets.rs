//! What a namespace may take of the operator's memory and of everybody's etcd: one tenant has reached its limit of users'
//! tokens, or of events, and the other one beside it gets what it would get alone.

use std::time::Instant;

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, ListParams};
use mcp_auth_crds::{conditions, reasons};
use mcp_auth_tests::oauth;
use mcp_auth_tests::replica::Replica;
use mcp_auth_tests::resource::{oauth2, resource};
use mcp_auth_tests::servers::Server;
use mcp_auth_tests::sidecar::{exchange, token_of};
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::{World, message};
use serde_json::json;

use crate::fleet::configure;
use crate::service::Service;
use crate::tenants::operator_of_both;

/// What a namespace may have in these tests, of users' tokens and of events in a minute.
const LIMIT: usize = 3;
const MANY: usize = 8;

struct Scene {
    crowd: World,
    quiet: World,
    _replica: Replica,
    _service: Service,
}

/// Two tenants of an operator with this argument.
async fn start(name: &str, argument: String) -> Scene {
    let crowd = World::new(&format!("{name}-crowd"), false).await;
    let quiet = World::new(&format!("{name}-quiet"), false).await;
    let operator = operator_of_both(name, &crowd, &quiet, [argument]);
    let service = Service::start().await;
    let replica = operator.start(name, None, None).await;
    replica.until_leads().await;
    service.lead_to([replica.address.clone()]).await;
    Scene {
        crowd,
        quiet,
        _replica: replica,
        _service: service,
    }
}

/// A tenant's pod, and the subject tokens of its users.
struct Users<'a> {
    world: &'a World,
    pod: Pod,
    subjects: Vec<String>,
}

impl<'a> Users<'a> {
    /// The namespace's name is its client's as well.
    async fn of(world: &'a World, count: usize) -> Self {
        let exchanges = json!({"tokenExchange": {"subjectCookie": "session"}});
        configure(world, &world.namespace, exchanges).await;
        world
            .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
            .await;
        let pod = json!({"app.kubernetes.io/name": "litellm"});
        let pod = world.pod("litellm-0", pod).await;
        let mut subjects = Vec::new();
        for number in 0..count {
            let user = format!("user-{number}");
            subjects.push(Server::OidcProvider.user_token(&user, &world.namespace).await);
        }
        Self { world, pod, subjects }
    }

    /// A token for each of them, and how many the authorization server issued for that.
    async fn all_call(&self) -> (Vec<String>, usize) {
        let before = oauth::issued(&self.world.namespace).await;
        let mut tokens = Vec::new();
        for subject in &self.subjects {
            let exchanged = exchange(self.world, &self.pod, "tools", subject, None).await;
            tokens.push(token_of(&exchanged.unwrap()).expect("every user is served"));
        }
        let issued = oauth::issued(&self.world.namespace).await - before;
        (tokens, issued)
    }
}

#[tokio::test]
async fn a_tenant_with_more_users_than_are_kept_serves_them_all_and_another_keeps_its_tokens() {
    let argument = format!("--max-user-tokens-per-namespace={LIMIT}");
    let Scene { crowd, quiet, .. } = &start("budget-users", argument).await;
    let (few, many) = (Users::of(quiet, LIMIT).await, Users::of(crowd, MANY).await);
    let (tokens, issued) = few.all_call().await;
    assert_eq!(issued, LIMIT);

    let (first, issued) = many.all_call().await;
    assert_eq!((first.len(), issued), (MANY, MANY));
    let status = crowd
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::LIMIT_EXCEEDED)
        .await;
    let told = message(&status, conditions::TOKEN_ISSUED);
    assert!(
        told.contains("3 users' tokens") && told.contains("limits.userTokensPerNamespace"),
        "{told}"
    );
    let (again, issued) = many.all_call().await;
    assert_eq!(again.len(), MANY);
    assert!(
        issued >= MANY - LIMIT,
        "{issued} were exchanged anew, so more are kept than may be"
    );

    // The other tenant is at its limit, not beyond it: nothing that the first one does costs it a token.
    assert_eq!(few.all_call().await, (tokens, 0));
    let status = quiet
        .condition("tools", conditions::TOKEN_ISSUED, "True", reasons::ISSUED)
        .await;
    assert!(!message(&status, conditions::TOKEN_ISSUED).contains("limits."));
}

#[tokio::test]
async fn a_tenant_with_more_events_than_it_may_have_is_told_so_once_and_another_has_its_own() {
    let began = Instant::now();
    let argument = format!("--max-events-per-namespace={LIMIT}");
    let Scene { crowd, quiet, .. } = &start("budget-events", argument).await;
    // None of them has the Secret that it names.
    for number in 0..MANY {
        let (name, server) = (format!("tools-{number}"), format!("tools_{number}"));
        let object = resource(&name, &server, oauth2("https://auth.example.com/token"));
        crowd.apply(&object).await.unwrap();
    }
    let events: Api<Event> = crowd.api();
    let written = async || {
        let all = events.list(&ListParams::default()).await.unwrap();
        let told = all.into_iter().map(|event| {
            let reason = event.reason.unwrap_or_default();
            (reason, event.message.unwrap_or_default())
        });
        told.collect::<Vec<_>>()
    };
    let is_limit = |(reason, _): &&(String, String)| reason == "EventsLimited";
    let told = until("the limit to be told", written, |told| {
        told.iter().any(|it| is_limit(&it))
    })
    .await;
    let (_, note) = told.iter().find(is_limit).unwrap();
    assert!(
        note.contains("writes 3 events a minute") && note.contains("limits.eventsPerNamespace"),
        "{note}"
    );

    // The other tenant's first event comes while the first tenant has no more.
    let object = resource("tools", "tools", oauth2("https://auth.example.com/token"));
    quiet.apply(&object).await.unwrap();
    until(
        "the other tenant's event",
        async || quiet.events("tools").await,
        |told| told.iter().any(|(reason, _)| reason == reasons::SECRET_NOT_FOUND),
    )
    .await;
    assert!(!quiet.events("tools").await.iter().any(|it| is_limit(&it)));

    // What has no event is in the status of each resource all the same.
    for number in 0..MANY {
        crowd
            .condition(
                &format!("tools-{number}"),
                conditions::SECRETS_RESOLVED,
                "False",
                reasons::SECRET_NOT_FOUND,
            )
            .await;
    }
    let told = written().await;
    let limits = told.iter().filter(is_limit).count();
    // However slow this machine is: so many minutes there were.
    let minutes = 1 + usize::try_from(began.elapsed().as_secs()).unwrap() / 60;
    assert!(
        limits <= minutes && told.len() - limits <= LIMIT * minutes,
        "in {minutes} minutes: {told:#?}"
    );
}
