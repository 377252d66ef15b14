//! How long each side waits for the other. Where one wait contains another, the inner one ends first: only
//! the inner side knows why there is no answer, and the user should read that and not "no answer". Each pair
//! is compared at compile time.
//!
//! A user's call that needs a token of the user's own waits in three places, one inside the other:
//!
//! ```text
//! sidecar: a call waits for its token      30 s  USER_TOKEN            > EXCHANGE_RESPONSE
//!   sidecar: one request to the operator   28 s  EXCHANGE_RESPONSE     > LEAD_CHANGE + AUTHORIZATION_SERVER
//!     operator: the next leader            20 s  LEAD_CHANGE
//!     operator: the authorization server    7 s  AUTHORIZATION_SERVER
//! ```
//!
//! The two seconds above the request are for a connection to the operator. A replica that does not lead passes the
//! request on, and waits half a second longer than the one that does. The one second above both is for the way there and
//! back, and for the TokenReview. Only a leader that crashes makes a call wait for longer than the authorization server
//! does: a wait is better than an error.

use std::time::Duration;

/// Longest wait of the operator for an authorization server, when a sidecar asks for a user's token. The
/// token request itself may take longer: it goes on, and a later request of the sidecar finds its result.
pub const AUTHORIZATION_SERVER: Duration = Duration::from_secs(7);

/// Longest time from the crash of a leader until the next one answers: the Lease runs for 15 s, is taken within 2 s, and what
/// the resources refer to is read within 3 s.
pub const LEAD_CHANGE: Duration = Duration::from_secs(20);

/// Longest wait of the sidecar from an exchange request to the end of the operator's answer.
pub const EXCHANGE_RESPONSE: Duration = Duration::from_secs(28);

/// Longest wait of a user's call for the token of this user, connections and repeated requests included.
pub const USER_TOKEN: Duration = Duration::from_secs(30);

/// Longest time between two lines downwards.
pub const HEARTBEAT: Duration = Duration::from_secs(15);

/// A sidecar that reads nothing for this long reconnects: a heartbeat may be late, and one may be lost with
/// its connection.
pub const SYNC_SILENCE: Duration = Duration::from_secs(45);

/// Timeout of the sidecar's readiness probe, which the webhook writes into the pod: whole seconds, as
/// Kubernetes has them.
pub const READINESS_PROBE_SECONDS: i32 = 3;

/// Longest wait of the sidecar for a connection to LiteLLM, which that probe waits for where the system does not
/// list its sockets.
pub const LITELLM_CONNECT: Duration = Duration::from_secs(2);

const _: () = {
    assert!(
        contains(
            EXCHANGE_RESPONSE,
            Duration::from_millis((LEAD_CHANGE.as_millis() + AUTHORIZATION_SERVER.as_millis()) as u64)
        ),
        "the operator gives up first, and says why"
    );
    assert!(
        contains(USER_TOKEN, EXCHANGE_RESPONSE),
        "one request ends before the call that waits for it"
    );
    assert!(
        SYNC_SILENCE.as_millis() >= 3 * HEARTBEAT.as_millis(),
        "a stream outlives a heartbeat that is late"
    );
    assert!(
        contains(
            Duration::from_secs(READINESS_PROBE_SECONDS as u64),
            LITELLM_CONNECT
        ),
        "the probe hears why LiteLLM is not ready"
    );
};

/// Whether the inner wait ends early enough for the answer about it to arrive: a second before the outer one.
const fn contains(outer: Duration, inner: Duration) -> bool {
    outer.as_millis() >= inner.as_millis() + 1_000
}
