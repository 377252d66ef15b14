//! Spurious wakes: hyper hands a body from the connection that reads it to whoever takes it over a channel, and whoever
//! takes a chunk wakes the connection to read the next one. Here both are polled by one task, and nearly every body is one
//! chunk: the wake then polls client, connection and server once more, for nothing. [`WakeFilter`] is the waker of such a
//! task, and [`hold_wakes`] keeps that wake from it until it is known whether the chunk was the last one.

use std::cell::Cell;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use parking_lot::Mutex;

thread_local! {
    /// What becomes of wakes through a filter on this thread.
    static WAKES: Cell<Wakes> = const { Cell::new(Wakes::Pass) };
}

#[derive(Clone, Copy, PartialEq)]
enum Wakes {
    Pass,
    /// They are held back; none has come yet.
    Held,
    Came,
}

/// The waker of one task, which can be kept from being woken.
pub struct WakeFilter {
    shared: Arc<Shared>,
    waker: Waker,
}

struct Shared {
    /// Of the task that polls.
    task: Mutex<Waker>,
}

impl WakeFilter {
    pub fn new() -> Self {
        let task = Mutex::new(Waker::noop().clone());
        let shared = Arc::new(Shared { task });
        let waker = Waker::from(shared.clone());
        Self { shared, waker }
    }

    /// Polls with a waker that can be kept from waking the task of `cx`.
    pub fn poll<T>(&self, cx: &Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> T) -> T {
        let mut task = self.shared.task.lock();
        // Mostly it is the same one as before.
        if !task.will_wake(cx.waker()) {
            task.clone_from(cx.waker());
        }
        drop(task);
        poll(&mut Context::from_waker(&self.waker))
    }
}

impl Default for WakeFilter {
    fn default() -> Self {
        Self::new()
    }
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        match WAKES.get() {
            Wakes::Pass => self.task.lock().wake_by_ref(),
            Wakes::Held | Wakes::Came => WAKES.set(Wakes::Came),
        }
    }
}

/// Takes what has come of a body, and says whether that has woken the task through its [`WakeFilter`], which is kept from it:
/// the caller wakes it, unless the connection has nothing more to hand over.
pub fn hold_wakes<T>(take: impl FnOnce() -> T) -> (T, bool) {
    let held = Held(WAKES.replace(Wakes::Held));
    let taken = take();
    let has_come = WAKES.get() == Wakes::Came;
    drop(held);
    (taken, has_come)
}

/// Lets wakes pass again as before, after a panic too: the thread goes on with other connections.
struct Held(Wakes);

impl Drop for Held {
    fn drop(&mut self) {
        WAKES.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Task {
        fn wakes(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_panic_while_wakes_are_held_holds_none_back_afterwards() {
        let task = Arc::<Task>::default();
        let filter = WakeFilter::new();
        let mut inner = None;
        filter.poll(&Context::from_waker(&Waker::from(task.clone())), |cx| {
            inner = Some(cx.waker().clone());
        });
        let panicked = std::panic::catch_unwind(|| hold_wakes(|| panic!("a body's")));
        assert!(panicked.is_err());
        inner.unwrap().wake();
        assert_eq!(task.wakes(), 1);
    }

    #[test]
    fn a_wake_reaches_the_task_that_polled_last() {
        let tasks = [(); 2].map(|()| Arc::<Task>::default());
        let filter = WakeFilter::new();
        let mut inner = None;
        for task in &tasks {
            let waker = Waker::from(task.clone());
            filter.poll(&Context::from_waker(&waker), |cx| {
                inner = Some(cx.waker().clone());
            });
        }
        inner.unwrap().wake();
        assert_eq!(tasks.map(|task| task.wakes()), [0, 1]);
    }

    #[test]
    fn a_wake_that_is_held_reaches_no_task_and_is_said_to_have_come() {
        let task = Arc::<Task>::default();
        let waker = Waker::from(task.clone());
        let filter = WakeFilter::new();
        let inner = filter.poll(&Context::from_waker(&waker), |cx| cx.waker().clone());
        assert_eq!(hold_wakes(|| "nothing to take"), ("nothing to take", false));
        assert_eq!(hold_wakes(|| inner.wake_by_ref()), ((), true));
        assert_eq!(task.wakes(), 0);
        inner.wake_by_ref();
        assert_eq!(task.wakes(), 1, "one of another time");
    }

    #[test]
    fn a_waker_of_another_kind_is_not_held() {
        let task = Arc::<Task>::default();
        let waker = Waker::from(task.clone());
        assert_eq!(hold_wakes(|| waker.wake_by_ref()), ((), false));
        assert_eq!(task.wakes(), 1);
    }
}
