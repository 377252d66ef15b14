//! What hears of interim answers (1xx, RFC 9110 section 15.2), in a request's extensions.

use std::sync::Arc;

use http::{HeaderMap, Request, StatusCode};

type Listener = dyn Fn(StatusCode, &HeaderMap) + Send + Sync;

#[derive(Clone)]
pub struct OnInterim(Arc<Listener>);

impl OnInterim {
    /// Has `listener` hear of those to this request.
    pub fn set<B>(
        request: &mut Request<B>,
        listener: impl Fn(StatusCode, &HeaderMap) + Send + Sync + 'static,
    ) {
        request.extensions_mut().insert(Self(Arc::new(listener)));
    }

    /// The same for a request that hyper sends.
    pub fn pass_to_hyper<B>(request: &mut Request<B>) {
        if let Some(listener) = request.extensions_mut().remove::<Self>() {
            hyper::ext::on_informational(request, move |answer| {
                listener.call(answer.status(), answer.headers())
            });
        }
    }

    pub fn call(&self, status: StatusCode, headers: &HeaderMap) {
        self.0(status, headers);
    }
}
