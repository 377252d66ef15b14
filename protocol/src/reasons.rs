//! Why the operator does not serve a sidecar: a closed set of
//! [`Problem::reason`](crate::sync::Problem::reason), which is also the label of the operator's metric. A
//! sidecar of another version may not know one of them; it acts on [`NOT_LEADING`] alone and shows the
//! others.

/// This replica neither leads nor knows the tokens of the one that does. A new connection may reach another.
pub const NOT_LEADING: &str = "NotLeading";

/// The request has no bearer token.
pub const NO_TOKEN: &str = "NoToken";
/// TokenReview does not accept the token.
pub const INVALID_TOKEN: &str = "InvalidToken";
/// The token is for another audience than [`AUDIENCE`](crate::pod::AUDIENCE).
pub const WRONG_AUDIENCE: &str = "WrongAudience";
/// The ServiceAccount token is not bound to a pod.
pub const NOT_BOUND_TO_POD: &str = "NotBoundToPod";
/// The message names another pod than the token.
pub const OTHER_POD: &str = "OtherPod";
/// The pod has as many connections to the operator as a pod may have.
pub const TOO_MANY_CONNECTIONS: &str = "TooManyConnections";
/// The pod has as many streams as a pod may have, or all pods have.
pub const TOO_MANY_STREAMS: &str = "TooManyStreams";
/// The pod does not exist any more.
pub const NO_SUCH_POD: &str = "NoSuchPod";
/// The API server could not be asked whose pod this is.
pub const API_SERVER: &str = "ApiServer";
/// The resources of the pod's namespace have not been listed: nothing can be said of them yet.
pub const NOT_LISTED: &str = "NotListed";

/// Another replica of the operator is to be followed, and the token is not of the operator's ServiceAccount.
pub const NOT_A_REPLICA: &str = "NotAReplica";

/// The stream does not begin with a [`Report`](crate::sync::Report).
pub const NO_REPORT: &str = "NoReport";

/// Too many users' tokens are asked for at once, by the pod or in total.
pub const TOO_MANY_EXCHANGES: &str = "TooManyExchanges";
/// The body is no [`ExchangeRequest`](crate::sync::ExchangeRequest).
pub const NO_EXCHANGE_REQUEST: &str = "NoExchangeRequest";
/// No resource with this server name selects the pod.
pub const NOT_ENTITLED: &str = "NotEntitled";
/// The sidecar asks for another URL than the resource states.
pub const OTHER_URL: &str = "OtherUrl";
/// The resource has no token exchange, or none yet.
pub const NO_EXCHANGE: &str = "NoExchange";
/// The authorization server did not answer within
/// [`AUTHORIZATION_SERVER`](crate::timeouts::AUTHORIZATION_SERVER).
pub const EXCHANGE_SLOW: &str = "ExchangeSlow";
/// The authorization server gave no token.
pub const EXCHANGE_FAILED: &str = "ExchangeFailed";

/// The constant of a reason that another replica of the operator gave.
pub fn known(reason: &str) -> Option<&'static str> {
    const ALL: &[&str] = &[
        NOT_LEADING,
        NO_TOKEN,
        INVALID_TOKEN,
        WRONG_AUDIENCE,
        NOT_BOUND_TO_POD,
        OTHER_POD,
        TOO_MANY_CONNECTIONS,
        TOO_MANY_STREAMS,
        TOO_MANY_EXCHANGES,
        NO_SUCH_POD,
        API_SERVER,
        NOT_LISTED,
        NOT_A_REPLICA,
        NO_REPORT,
        NO_EXCHANGE_REQUEST,
        NOT_ENTITLED,
        OTHER_URL,
        NO_EXCHANGE,
        EXCHANGE_SLOW,
        EXCHANGE_FAILED,
    ];
    ALL.iter().copied().find(|known| *known == reason)
}
