//! Review bounds: how much memory and how many requests to the API server reviews may take, in total and by the address that
//! asks. Any pod of the cluster can send a review, and before it is parsed it is unknown whose it is: a megabyte of
//! `"containers":[{},{},…]` is hundreds of megabytes as a `Pod`.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::Request;
use axum::http::StatusCode;
use bytes::BytesMut;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, EphemeralContainer, Volume};
use thiserror::Error;
use tokio::time::{Instant, timeout};

use super::known_addresses::KnownAddresses;
use super::lookups_in_vain::{LookupInVain, LookupScope, LookupsInVain};
use crate::connection_bounds::Place;
use crate::http::{BODY_TIMEOUT, BodyError};
use crate::shares::{Share, ShareLimits, Shares};

/// The largest object that Kubernetes stores, and what is around it.
const MAX_REVIEW_BYTES: usize = 3 * 1024 * 1024;
/// In KiB, of bodies that are being read or have been: once for known addresses, and once for all others.
const BODIES: ShareLimits = ShareLimits {
    total: 16 * 1024,
    of_one: 6 * 1024,
};
/// In KiB, of reviews as they are once they are parsed, for either kind of addresses as well. A pod of LiteLLM takes one MiB, so that an
/// API server has dozens under way.
const PARSED: ShareLimits = ShareLimits {
    total: 48 * 1024,
    of_one: 24 * 1024,
};
/// A body of which nothing comes for this long is given up: an API server has it whole when it begins to send, and one under load may
/// leave it for more than a second.
const STALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Reviews at once for which the API server is asked.
const LOOKUPS: ShareLimits = ShareLimits {
    total: 16,
    of_one: 12,
};
/// Longest wait for memory, for the body and for what it is parsed into. Both together are within the webhook's own timeout.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// The largest thing that a pod has in a list. A list has room for twice as many as it holds, beside what it was copied from.
const LIST_OBJECT_BYTES: usize = 3 * max(
    max(size_of::<Container>(), size_of::<EphemeralContainer>()),
    max(size_of::<Volume>(), size_of::<ContainerStatus>()),
);
/// The same of a number or text in a list.
const LIST_ELEMENT_BYTES: usize = 3 * size_of::<serde_json::Value>();
/// A map has room for eleven entries at least, and while it grows for three times as many as it has, each with its key.
const MAP_BYTES: usize = 11 * (size_of::<String>() + size_of::<serde_json::Value>()) + 16;
const MAP_ENTRY_BYTES: usize = 3 * (size_of::<String>() + size_of::<serde_json::Value>()) + 16;

/// Lists and maps within one another that serde_json reads.
const MAX_DEPTH: usize = 128;

const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct ReviewBounds {
    known: KnownAddresses,
    memory_of_known: MemoryShares,
    memory_of_strangers: MemoryShares,
    lookups: Shares<IpAddr>,
    in_vain: LookupsInVain,
}

/// What addresses of one kind have together.
#[derive(Clone)]
struct MemoryShares {
    bodies: Shares<IpAddr>,
    parsed: Shares<IpAddr>,
}

/// A body, within the share of the address that sent it.
pub struct BoundedBody {
    pub bytes: Bytes,
    pub address: IpAddr,
    _shares: Vec<Share>,
}

#[derive(Debug, Error)]
pub enum ReviewBoundsError {
    #[error("the body is no AdmissionReview: {0}")]
    Body(BodyError),
    #[error("the body is no AdmissionReview: it is longer than {MAX_REVIEW_BYTES} bytes")]
    TooLong,
    #[error("the body is no AdmissionReview: nothing of it came for {} s", STALL_TIMEOUT.as_secs())]
    Stalled,
    #[error("the review has more parts than any pod has: parsed it might take {0} KiB")]
    TooManyParts(u32),
    #[error("there are too many reviews from {0} at once, or in total")]
    Busy(IpAddr),
}

impl ReviewBoundsError {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Body(_) | Self::Stalled => StatusCode::BAD_REQUEST,
            Self::TooLong | Self::TooManyParts(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl Default for ReviewBounds {
    fn default() -> Self {
        Self {
            known: KnownAddresses::default(),
            memory_of_known: MemoryShares::default(),
            memory_of_strangers: MemoryShares::default(),
            lookups: Shares::new(LOOKUPS),
            in_vain: LookupsInVain::default(),
        }
    }
}

impl Default for MemoryShares {
    fn default() -> Self {
        Self {
            bodies: Shares::new(BODIES),
            parsed: Shares::new(PARSED),
        }
    }
}

impl ReviewBounds {
    /// The address sent a review of a pod whose workload exists: from now on it has its part of memory that no stranger takes.
    pub fn has_existing_owner(&self, address: IpAddr) {
        self.known.record(address);
    }

    fn memory(&self, address: IpAddr) -> &MemoryShares {
        match self.known.contains(address) {
            true => &self.memory_of_known,
            false => &self.memory_of_strangers,
        }
    }

    /// The whole body of a request, with room for each part of it that has arrived: one that stalls takes no more than that.
    pub async fn body(&self, request: Request) -> Result<BoundedBody, ReviewBoundsError> {
        let place = request.extensions().get::<Arc<Place>>();
        // Without a connection there is a test that calls this.
        let address = place.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |place| place.address());
        let body = request.into_body();
        if body.size_hint().lower() > MAX_REVIEW_BYTES as u64 {
            return Err(ReviewBoundsError::TooLong);
        }
        let reading = timeout(BODY_TIMEOUT, self.read(body, address)).await;
        reading.unwrap_or(Err(ReviewBoundsError::Body(BodyError::Slow)))
    }

    async fn read(&self, body: Body, address: IpAddr) -> Result<BoundedBody, ReviewBoundsError> {
        let mut parts = body.into_data_stream();
        let (mut bytes, mut shares, mut taken) = (BytesMut::new(), Vec::new(), 0);
        let bodies = &self.memory(address).bodies;
        loop {
            let part = timeout(STALL_TIMEOUT, parts.next()).await;
            let Some(part) = part.map_err(|_| ReviewBoundsError::Stalled)? else {
                break;
            };
            let broken = BodyError::TooLongOrBroken(MAX_REVIEW_BYTES);
            let part = part.map_err(|_| ReviewBoundsError::Body(broken))?;
            if bytes.len() + part.len() > MAX_REVIEW_BYTES {
                return Err(ReviewBoundsError::TooLong);
            }
            let needed = kibibytes(bytes.len() + part.len());
            if needed > taken {
                let share = bodies.take(address, needed - taken, LONGEST_WAIT).await;
                shares.push(share.ok_or(ReviewBoundsError::Busy(address))?);
                taken = needed;
            }
            bytes.extend_from_slice(&part);
        }
        Ok(BoundedBody {
            bytes: bytes.freeze(),
            address,
            _shares: shares,
        })
    }

    /// Room for what a body becomes once it is parsed.
    pub async fn parsed(&self, body: &BoundedBody) -> Result<Share, ReviewBoundsError> {
        let kibibytes = kibibytes(parsed_bytes(&body.bytes));
        if kibibytes > PARSED.of_one {
            return Err(ReviewBoundsError::TooManyParts(kibibytes));
        }
        let parsed = &self.memory(body.address).parsed;
        let share = parsed.take(body.address, kibibytes, LONGEST_WAIT).await;
        share.ok_or(ReviewBoundsError::Busy(body.address))
    }

    /// A turn to ask the API server about a review of this address and scope. A scope in which too many owners are made up has none,
    /// nor has a review whose turn does not come until its deadline.
    pub async fn lookup(&self, address: IpAddr, scope: &LookupScope, deadline: Instant) -> Option<Share> {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = self.lookups.take(address, 1, left).await?;
        let is_within = self
            .in_vain
            .is_within_bound(LookupInVain::MadeUpOwner, address, scope);
        is_within.then_some(share)
    }

    /// The owner that a review named was made up.
    pub fn looked_up_in_vain(&self, address: IpAddr, scope: &LookupScope) {
        self.in_vain.record(LookupInVain::MadeUpOwner, address, scope);
    }

    /// Whether something may be looked up for a pod without an owner, which then counts.
    pub fn looks_up_without_owner(&self, address: IpAddr, scope: &LookupScope) -> bool {
        let is_within = self
            .in_vain
            .is_within_bound(LookupInVain::NoOwner, address, scope);
        if is_within {
            self.in_vain.record(LookupInVain::NoOwner, address, scope);
        }
        is_within
    }
}

fn kibibytes(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).max(1)
}

/// The most memory that a JSON text may take as whatever it is parsed into: by its lists and maps, wherever they are. A text that
/// is no JSON has any number.
fn parsed_bytes(json: &[u8]) -> usize {
    let (mut bytes, mut is_text, mut is_escaped) = (2 * json.len(), false, false);
    // Whether each that is open is a list.
    let mut open: Vec<bool> = Vec::new();
    for byte in json {
        if is_text {
            (is_text, is_escaped) = (is_escaped || *byte != b'"', !is_escaped && *byte == b'\\');
            continue;
        }
        let is_in_list = open.last() == Some(&true);
        bytes += match byte {
            b'"' => {
                is_text = true;
                0
            }
            b'{' => {
                open.push(false);
                if is_in_list { LIST_OBJECT_BYTES } else { MAP_BYTES }
            }
            b'[' => {
                open.push(true);
                // It has room for four at least.
                4 * LIST_ELEMENT_BYTES
            }
            b'}' | b']' => {
                open.pop();
                0
            }
            b',' if is_in_list => LIST_ELEMENT_BYTES,
            b':' => MAP_ENTRY_BYTES,
            _ => 0,
        };
        // serde_json goes no deeper, and gives up there.
        if open.len() > MAX_DEPTH {
            break;
        }
    }
    bytes
}

#[cfg(test)]
pub(super) mod tests {
    use futures::stream;
    use serde_json::json;

    use super::*;
    use crate::connection_bounds::{ConnectionBounds, ConnectionLimits};

    fn request(body: impl Into<Body>) -> Request {
        Request::new(body.into())
    }

    /// A request of another address.
    pub fn request_from(address: [u8; 4], body: impl Into<Body>) -> Request {
        let bounds = ConnectionBounds::new(ConnectionLimits {
            total: 1,
            without_request: 1,
            unauthenticated_by_address: 1,
            by_pod: 1,
            not_entitled: 1,
        });
        let mut request = request(body);
        let place = bounds.enter(address.into()).unwrap();
        request.extensions_mut().insert(Arc::new(place));
        request
    }

    #[tokio::test]
    async fn a_review_whose_pod_would_take_hundreds_of_megabytes_is_refused_before_it_is_parsed() {
        let bounds = ReviewBounds::default();
        for part in ["{}", "[{}]", "{\"a\":{}}", "[[0,0,0,0,0,0,0,0]]"] {
            let parts = vec![part; 2_900_000 / (part.len() + 1)].join(",");
            let text = format!(r#"{{"request":{{"object":{{"spec":{{"containers":[{parts}]}}}}}}}}"#);
            let body = bounds.body(request(text)).await.unwrap();
            let error = bounds.parsed(&body).await.unwrap_err();
            assert!(
                matches!(error, ReviewBoundsError::TooManyParts(_)),
                "{part}: {error}"
            );
            assert_eq!(error.status(), StatusCode::PAYLOAD_TOO_LARGE);
        }
    }

    #[tokio::test]
    async fn a_pod_with_hundreds_of_variables_and_long_annotations_is_small() {
        let variables: Vec<_> = (0..500)
            .map(|number| json!({"name": format!("V{number}"), "value": "{[,:\\\"]}".repeat(10)}))
            .collect();
        // In a text braces are no objects.
        let annotations = json!({"last-applied": "{\"a\":[{},{},{}]}".repeat(10_000)});
        let pod =
            json!({"metadata": {"annotations": annotations}, "spec": {"containers": [{"env": variables}]}});
        let bounds = ReviewBounds::default();
        let body = json!({"request": {"object": pod}}).to_string();
        let estimate = parsed_bytes(body.as_bytes());
        assert!(estimate < 8 * 1024 * 1024, "{estimate}");
        let body = bounds.body(request(body)).await.unwrap();
        let _several: Vec<_> = futures::future::try_join_all([(); 3].map(|()| bounds.parsed(&body)))
            .await
            .unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_that_never_end_take_no_more_than_the_share_of_their_address() {
        let bounds = ReviewBounds::default();
        let megabyte = Bytes::from(vec![b' '; 1024 * 1024]);
        let endless = || {
            let begun = stream::iter([Ok::<_, std::io::Error>(megabyte.clone())]);
            Body::from_stream(begun.chain(stream::pending()))
        };
        let crowd = (0..100).map(|_| bounds.body(request_from([10, 0, 0, 1], endless())));
        let crowd = futures::future::join_all(crowd);
        let other = async {
            // The crowd has begun.
            tokio::time::sleep(Duration::from_millis(1)).await;
            bounds.body(request_from([10, 0, 0, 2], "{}")).await.is_ok()
        };
        let (answers, is_served) = tokio::join!(crowd, other);
        assert!(is_served, "another address does not wait");
        let busy = answers
            .iter()
            .filter(|answer| matches!(answer, Err(ReviewBoundsError::Busy(_))));
        // Those that begin to stall make room for others twice, until none waits.
        assert!(busy.count() >= 100 - 3 * 6, "six megabytes are one address's");
        let of_the_same = bounds.body(request_from([10, 0, 0, 1], "{}")).await;
        assert!(of_the_same.is_ok(), "what they had is free again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_of_which_nothing_comes_for_two_seconds_is_given_up_and_a_slow_one_is_read() {
        let bounds = ReviewBounds::default();
        let parts = |number: usize| stream::repeat_with(|| Ok::<_, std::io::Error>("  ")).take(number);
        let slow = parts(5).then(async |part| {
            tokio::time::sleep(Duration::from_millis(1_800)).await;
            part
        });
        let body = bounds.body(request(Body::from_stream(slow))).await.unwrap();
        assert_eq!(body.bytes.len(), 10);
        let began = Instant::now();
        let stalled = Body::from_stream(parts(5).chain(stream::pending()));
        let error = bounds.body(request(stalled)).await.err().unwrap();
        assert!(matches!(error, ReviewBoundsError::Stalled), "{error}");
        assert_eq!(began.elapsed(), STALL_TIMEOUT);
    }

    #[test]
    fn nothing_that_a_pod_has_in_a_list_is_larger_than_what_is_counted_for_it() {
        use k8s_openapi::api::core::v1 as core;
        use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
        for size in [
            size_of::<core::EnvVar>(),
            size_of::<core::EnvFromSource>(),
            size_of::<core::ContainerPort>(),
            size_of::<core::VolumeMount>(),
            size_of::<core::VolumeProjection>(),
            size_of::<core::Toleration>(),
            size_of::<core::TopologySpreadConstraint>(),
            size_of::<core::WeightedPodAffinityTerm>(),
            size_of::<core::PodAffinityTerm>(),
            size_of::<core::PreferredSchedulingTerm>(),
            size_of::<core::PodCondition>(),
            size_of::<meta::ManagedFieldsEntry>(),
            size_of::<meta::OwnerReference>(),
        ] {
            // A list with one of them has room for four.
            assert!(4 * size <= LIST_OBJECT_BYTES, "{size}");
        }
    }

    #[tokio::test]
    async fn a_body_that_says_that_it_is_too_long_is_not_read() {
        let body = Body::from(vec![b' '; MAX_REVIEW_BYTES + 1]);
        let error = ReviewBounds::default().body(request(body)).await.err().unwrap();
        assert!(matches!(error, ReviewBoundsError::TooLong), "{error}");
    }
}
