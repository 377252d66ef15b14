use axum::Router;

use super::*;

#[tokio::test(start_paused = true)]
async fn liveness_notices_a_watch_of_pods_that_moves_no_more_while_the_namespace_is_watched() {
    let liveness = Liveness::default();
    // An API server that knows nothing: the watch tries again and again, which is moving.
    let client = Client::new(Router::new(), "default");
    let (pods, _changed) = Pods::new(client, Changes::default(), PodNotices::none(), liveness.clone());
    pods.watch("llm", true);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(liveness.watched(), ["the watch of pods in llm"]);
    assert_eq!(liveness.stuck(), None);
    pods.watch("llm", false);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(liveness.watched().is_empty(), "one that was ended is not missed");
}
