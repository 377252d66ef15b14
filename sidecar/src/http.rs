//! HTTP towards other servers: connections and their pools, and what every message that passes is subject to
//! on either side. Nothing here knows of routes or user context.

pub mod body_progress;
pub mod body_tap;
pub mod connect;
pub mod content_coding;
pub mod egress_proxy;
pub mod framing;
pub mod hop_by_hop;
pub mod http1;
mod http2_offer;
pub mod idle_timeout;
pub mod io;
pub mod json_encoding;
pub mod json_key_filter;
pub mod pool;
pub mod request_body;
pub mod resolver;
pub mod spurious_wakes;
pub mod tls;
pub mod trailers;
pub mod transport;
pub mod upstream;
pub mod websocket_filter;
