//! What the API server counted.

use kube::Client;

/// Requests since it started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Requests {
    /// That changed an object, leases aside: those are renewed every few seconds, whatever there is.
    pub writes: usize,
    pub token_reviews: usize,
}

impl Requests {
    pub async fn count(client: &Client) -> Self {
        let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
        let text = client.request_text(request).await.unwrap();
        let mut requests = Self::default();
        for line in text.lines() {
            let Some((labels, count)) = line
                .strip_prefix("apiserver_request_total{")
                .and_then(|line| line.rsplit_once("} "))
            else {
                continue;
            };
            let label = |name: &str| {
                let value = labels.split(&format!("{name}=\"")).nth(1)?;
                value.split('"').next()
            };
            // Written as 1.2345e+06 from some size on.
            let count = count.trim().parse::<f64>().unwrap();
            let count = count.round() as usize;
            let is_write = matches!(label("verb"), Some("POST" | "PUT" | "PATCH" | "APPLY" | "DELETE"));
            match label("resource") {
                Some("tokenreviews") => requests.token_reviews += count,
                Some("mcpserverauths" | "events" | "secrets" | "configmaps" | "pods") if is_write => {
                    requests.writes += count;
                }
                _ => {}
            }
        }
        requests
    }

    pub fn since(self, before: Self) -> Self {
        Self {
            writes: self.writes - before.writes,
            token_reviews: self.token_reviews - before.token_reviews,
        }
    }
}
