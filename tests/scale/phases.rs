//! What is done, one after another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mcp_auth_protocol::pod::AUDIENCE;
use mcp_auth_protocol::sync::RejectionCause;
use mcp_auth_tests::process;
use mcp_auth_tests::replica::{ANY_ADDRESS, Operator, Replica};
use mcp_auth_tests::setting;
use mcp_auth_tests::sidecar::{authority_pem, refused, token};
use mcp_auth_tests::token_reviews::TokenReviews;
use mcp_auth_tests::wait::until;
use mcp_auth_tests::world::World;
use serde_json::json;

use crate::api_server::Requests;
use crate::objects::{self, PodWithToken, server_name};
use crate::results::{Large, Renewals, Restart, Results, Step};
use crate::sidecars::{Sidecars, Speaker};
use crate::sizes::Sizes;
use crate::token_endpoint::TokenEndpoints;
use crate::{say, silent};

/// Shares of all sidecars that are measured, in percent.
const STEPS: [usize; 3] = [10, 50, 100];
/// Processor time of so short a time is at rest.
const CALM_WINDOW: Duration = Duration::from_secs(3);
/// A pod of this age is no longer starting, and what that changes in statuses has been looked at.
const OLD_ENOUGH: Duration = Duration::from_secs(65);
/// As often rest is waited for.
const REST_ATTEMPTS: usize = 3;
/// The bound of a wait for rest: that it does not come is a result too.
const CALM_LIMIT: Duration = Duration::from_secs(30);

/// The parts that all phases share.
pub struct Scene {
    pub operator_world: World,
    operator: Operator,
    kubeconfig: String,
    pub replicas: Vec<Replica>,
    started: usize,
    pub sidecars: Sidecars,
    pub endpoints: TokenEndpoints,
}

pub async fn run(sizes: &Sizes) -> Results {
    let endpoints = TokenEndpoints::start().await;
    let operator_world = World::in_namespace(&setting("MCPAUTH_TEST_OPERATOR_NAMESPACE")).await;
    say("two replicas, without resources");
    let mut scene = Scene::start(operator_world, endpoints.clone()).await;
    scene.rest().await;
    let empty_memory = scene.memory();

    let worlds = objects::namespaces(sizes.namespaces).await;
    let mut steps = Vec::new();
    let mut speakers = Vec::new();
    let mut there = Amounts::default();
    for amounts in Amounts::steps(sizes) {
        let Amounts { resources, pods } = amounts;
        say(&format!(
            "{} namespaces with {resources} resources and {pods} pods each",
            sizes.namespaces
        ));
        for (number, world) in worlds.iter().enumerate() {
            let first = number * sizes.resources;
            objects::resources(world, there.resources..resources, first, &endpoints).await;
        }
        let wanted = sizes.namespaces * resources;
        until(
            "all tokens to be issued",
            async || endpoints.served(),
            |served| *served >= wanted,
        )
        .await;
        let mut new = Vec::new();
        for world in &worlds {
            new.extend(objects::pods_from(world, there.pods, pods).await);
        }
        let began = Instant::now();
        speakers.extend(scene.connect(&new).await);
        let seconds = began.elapsed().as_secs_f64();
        there = amounts;
        steps.push(scene.step(sizes, wanted, seconds).await);
    }

    say("renewing tokens one after another");
    let renewals = scene.renew_some(sizes, &speakers).await;
    say("restarting the leader");
    let restart = scene.restart_leader().await;
    say("silent connections and junk tokens");
    let silent = silent::measure(&mut scene, &worlds[0], sizes, &speakers[0]).await;
    say(&format!(
        "one namespace with {} pods and {} resources",
        sizes.large_pods, sizes.large_resources
    ));
    let large = scene.large(sizes).await;
    Results {
        sizes: sizes.clone(),
        empty_memory,
        steps,
        renewals,
        restart,
        large,
        silent,
    }
}

/// In each namespace.
#[derive(Clone, Copy, Default)]
struct Amounts {
    resources: usize,
    pods: usize,
}

impl Amounts {
    /// A tenth of the resources, without pods and with the first of them; then all, with ever more pods.
    fn steps(sizes: &Sizes) -> Vec<Self> {
        let few = (sizes.resources / 10).max(1);
        let share = |percent| sizes.pods * percent / 100;
        let of = |resources, pods| Self { resources, pods };
        let few = [of(few, 0), of(few, share(STEPS[0]))];
        let all = STEPS.map(|percent| of(sizes.resources, share(percent)));
        few.into_iter().chain(all).collect()
    }
}

impl Scene {
    async fn start(operator_world: World, endpoints: TokenEndpoints) -> Self {
        let account = json!({"metadata": {"name": "default"}});
        // The script may have made it.
        let _ = operator_world
            .create::<k8s_openapi::api::core::v1::ServiceAccount>(account)
            .await;
        let kubeconfig = objects::operator_kubeconfig(&operator_world).await;
        let operator = Operator {
            namespace: operator_world.namespace.clone(),
            watched_namespace: String::new(),
            lease: "mcp-auth-operator".into(),
            certificate_secret: "mcp-auth-operator-tls".into(),
            url: Some(setting("MCPAUTH_TEST_OPERATOR")),
            program: None,
            // As the chart has it.
            arguments: vec![ANY_ADDRESS.into(), "--log=info".into()],
        };
        let mut replicas = Vec::new();
        for number in 0..2 {
            let replica = start_replica(&operator, &operator_world, &kubeconfig, number).await;
            if number == 0 {
                replica.until_leads().await;
            }
            replicas.push(replica);
        }
        let sidecars = Sidecars::new(&authority_pem(&operator_world).await);
        sidecars.lead_to(replicas.iter().map(|replica| &*replica.address));
        Self {
            operator_world,
            operator,
            kubeconfig,
            replicas,
            started: 2,
            sidecars,
            endpoints,
        }
    }

    pub fn memory(&self) -> Vec<f64> {
        let memory = |replica: &Replica| process::memory(replica.id());
        self.replicas.iter().map(memory).collect()
    }

    fn processor_seconds(&self) -> Vec<f64> {
        let seconds = |replica: &Replica| process::processor_seconds(replica.id());
        self.replicas.iter().map(seconds).collect()
    }

    /// Until the replicas have nothing to do but what they do all the time.
    async fn rest(&self) {
        let began = Instant::now();
        let mut before: f64 = self.processor_seconds().iter().sum();
        let mut least = f64::MAX;
        while began.elapsed() < CALM_LIMIT {
            tokio::time::sleep(CALM_WINDOW).await;
            let now: f64 = self.processor_seconds().iter().sum();
            let used = now - before;
            before = now;
            // No longer falling.
            if used >= least * 0.8 || used < 0.05 {
                return;
            }
            least = used;
        }
    }

    /// Measures at rest. That may take a while to come: a status is looked at again when a pod is a minute old.
    async fn step(&self, sizes: &Sizes, resources: usize, connect_seconds: f64) -> Step {
        let mut step = self.measure(sizes, resources, connect_seconds).await;
        for _ in 1..REST_ATTEMPTS {
            if step.api_writes == 0 {
                break;
            }
            step = self.measure(sizes, resources, connect_seconds).await;
        }
        say(&format!("{step:?}"));
        step
    }

    async fn measure(&self, sizes: &Sizes, resources: usize, connect_seconds: f64) -> Step {
        self.rest().await;
        let client = &self.operator_world.client;
        let requests = Requests::count(client).await;
        let processor = self.processor_seconds();
        let began = Instant::now();
        tokio::time::sleep(Duration::from_secs(sizes.rest_seconds as u64)).await;
        let seconds = began.elapsed().as_secs_f64();
        let processor = self.processor_seconds().into_iter().zip(processor);
        let port = process::api_server_port();
        Step {
            sidecars: self.sidecars.connected(),
            resources,
            memory: self.memory(),
            peak_memory: self
                .replicas
                .iter()
                .map(|replica| process::peak_memory(replica.id()))
                .collect(),
            processor: processor
                .map(|(after, before)| (after - before) / seconds)
                .collect(),
            connections_to_api_server: self
                .replicas
                .iter()
                .map(|replica| process::connections_to(replica.id(), port))
                .collect(),
            api_writes: Requests::count(client).await.since(&requests).all_writes(),
            connect_seconds,
        }
    }

    /// Starts the sidecars of these pods, and waits until each has had its snapshot.
    pub async fn connect(&self, pods: &[PodWithToken]) -> Vec<Speaker> {
        let start = |pod: &PodWithToken| self.sidecars.start(&pod.pod, pod.token.clone());
        let speakers = pods.iter().map(start).collect();
        self.until_connected().await;
        speakers
    }

    pub async fn until_connected(&self) {
        let all = self.sidecars.started();
        let connected = async || self.sidecars.connected();
        until("all sidecars to be connected", connected, |connected| {
            *connected >= all
        })
        .await;
    }

    /// An MCP server refuses the token of this sidecar's server, of the resource with this number. Seconds from the
    /// new token's issue until so many sidecars have it.
    pub async fn renew(&self, speaker: &Speaker, resource: usize, server: &str, sidecars: usize) -> f64 {
        let wanted = format!("\"{}", self.endpoints.next_token(resource));
        let awaited = self.sidecars.await_text(&wanted, sidecars);
        let snapshot = speaker.snapshot();
        speaker.say(|report| {
            let rejected = refused(&snapshot, server, RejectionCause::Unauthorized);
            report.refused = vec![rejected];
        });
        let missing = async || awaited.missing();
        until("every sidecar to have the new token", missing, |missing| {
            *missing == 0
        })
        .await;
        let issued_at = self.endpoints.last_at(resource).expect("one was issued");
        awaited.completed_at().duration_since(issued_at).as_secs_f64()
    }

    async fn renew_some(&self, sizes: &Sizes, speakers: &[Speaker]) -> Renewals {
        let client = &self.operator_world.client;
        let before = Requests::count(client).await;
        let mut seconds = Vec::new();
        let apart = (speakers.len() / sizes.renewals).max(1);
        for number in 0..sizes.renewals {
            let speaker = &speakers[number * apart % speakers.len()];
            let index = number % sizes.resources;
            let resource = speaker.namespace_number() * sizes.resources + index;
            seconds.push(
                self.renew(speaker, resource, &server_name(index), sizes.pods)
                    .await,
            );
        }
        self.rest().await;
        let requests = Requests::count(client).await.since(&before);
        let renewals = Renewals {
            seconds,
            api_writes: requests.all_writes(),
            api_writes_by_kind: requests.writes,
        };
        say(&format!("{renewals:?}"));
        renewals
    }

    /// Ends the leader as the kubelet does it, and starts another replica at the same time.
    async fn restart_leader(&mut self) -> Restart {
        let leader_leads = self.replicas[0].leads().await;
        let leader = self.replicas.remove(usize::from(!leader_leads));
        let reviews = TokenReviews::begin();
        let connections = MostConnections::watch(self.replicas[0].id());
        self.sidecars
            .lead_to(self.replicas.iter().map(|replica| &*replica.address));
        let all = self.sidecars.connected();
        let sidecars = self.sidecars.clone();
        // The streams of the one that ends do not all end at once.
        let ends = async move {
            let mut leader = leader;
            assert!(leader.terminate().await, "it ended in order");
        };
        let counts = async {
            while sidecars.connected() == all {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Instant::now()
        };
        let (_, began) = tokio::join!(ends, counts);
        let connected = async || self.sidecars.connected();
        until("the sidecars to come back", connected, |connected| {
            *connected >= all
        })
        .await;
        let seconds = began.elapsed().as_secs_f64();
        self.replicas[0].until_leads().await;
        let reviews = reviews.counts();
        let restart = Restart {
            seconds,
            token_reviews: reviews.all,
            token_reviews_at_once: reviews.at_once,
            connections_to_api_server: connections.finish(),
            memory_of_the_other: process::memory(self.replicas[0].id()),
        };
        let replica = start_replica(
            &self.operator,
            &self.operator_world,
            &self.kubeconfig,
            self.started,
        )
        .await;
        self.started += 1;
        self.replicas.push(replica);
        self.sidecars
            .lead_to(self.replicas.iter().map(|replica| &*replica.address));
        say(&format!("{restart:?}"));
        restart
    }

    async fn large(&self, sizes: &Sizes) -> Large {
        let before = self.endpoints.served();
        let first = sizes.all_resources();
        let world = World::new("scale-large", false).await;
        objects::resources(&world, 0..sizes.large_resources, first, &self.endpoints).await;
        let wanted = before + sizes.large_resources;
        until(
            "its tokens to be issued",
            async || self.endpoints.served(),
            |served| *served >= wanted,
        )
        .await;
        let pods = objects::pods_from(&world, 0, sizes.large_pods).await;
        let created = Instant::now();
        let speakers = self.connect(&pods).await;
        // Each is looked at again when it is a minute old, which is no part of a renewal.
        tokio::time::sleep(OLD_ENOUGH.saturating_sub(created.elapsed())).await;
        self.rest().await;
        let rest = self.used_in(Duration::from_secs(sizes.rest_seconds as u64)).await;
        let bytes = self.sidecars.received_bytes();
        let began = Instant::now();
        let before: f64 = self.processor_seconds().iter().sum();
        let mut seconds = Vec::new();
        for number in 0..sizes.renewals {
            let index = number % sizes.large_resources;
            let server = server_name(index);
            seconds.push(
                self.renew(&speakers[0], first + index, &server, sizes.large_pods)
                    .await,
            );
        }
        // What follows a renewal belongs to it: reports, the status.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let used = self.processor_seconds().iter().sum::<f64>() - before;
        let at_rest = rest * began.elapsed().as_secs_f64();
        let received = self.sidecars.received_bytes() - bytes;
        let large = Large {
            seconds,
            // Only where what goes on at rest, which fluctuates, is the lesser part.
            processor_milliseconds: (at_rest * 2.0 < used)
                .then(|| (used - at_rest) * 1000.0 / sizes.renewals as f64),
            bytes_each: received / sizes.renewals / sizes.large_pods,
            memory: self.memory(),
        };
        say(&format!("{large:?}"));
        large
    }

    /// Cores that both replicas together take now.
    async fn used_in(&self, time: Duration) -> f64 {
        let before: f64 = self.processor_seconds().iter().sum();
        let began = Instant::now();
        tokio::time::sleep(time).await;
        (self.processor_seconds().iter().sum::<f64>() - before) / began.elapsed().as_secs_f64()
    }
}

/// The greatest number of connections to the API server that a process has at any look.
struct MostConnections {
    is_over: Arc<AtomicBool>,
    watching: std::thread::JoinHandle<usize>,
}

impl MostConnections {
    fn watch(process: u32) -> Self {
        let is_over = Arc::<AtomicBool>::default();
        let told = is_over.clone();
        let port = process::api_server_port();
        let watching = std::thread::spawn(move || {
            let mut most = 0;
            while !told.load(Ordering::Relaxed) {
                most = most.max(process::connections_to(process, port));
                // Each look reads the sockets of the whole machine.
                std::thread::sleep(Duration::from_millis(500));
            }
            most
        });
        Self { is_over, watching }
    }

    fn finish(self) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        self.watching.join().expect("it reads files")
    }
}

async fn start_replica(operator: &Operator, world: &World, kubeconfig: &str, number: usize) -> Replica {
    let name = format!("operator-{number}");
    let pod = world.pod(&name, json!({"app": "operator"})).await;
    let token = token(world, AUDIENCE, Some(&pod)).await;
    let token_file = format!("{kubeconfig}-{name}");
    std::fs::write(&token_file, token).unwrap();
    let log = format!("{kubeconfig}-{name}.log").into();
    let change = |command: &mut tokio::process::Command| {
        command.env("KUBECONFIG", kubeconfig);
    };
    operator
        .start_with(&name, Some(token_file.as_ref()), Some(&log), change)
        .await
}
