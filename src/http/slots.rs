//! Slots for connections: how many there are, and who makes room where all are
//! taken.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// All slots, free and taken.
pub(super) struct Slots {
    free: Arc<Semaphore>,
    taken: Mutex<Taken>,
    /// A connection began to wait for a request.
    idle: Notify,
}

#[derive(Default)]
struct Taken {
    last: u64,
    by: HashMap<u64, Connection>,
}

struct Connection {
    standing: Standing,
    lost: Arc<Notify>,
}

#[derive(Clone, Copy)]
enum Standing {
    /// For the head of a request, since then.
    Waits(Instant),
    Answers,
    /// The answer is over, but its last bytes may not have left.
    Ends,
    /// It made room: nothing is answered on it any more.
    Lost,
}

impl Slots {
    pub fn new(count: usize) -> Arc<Slots> {
        Arc::new(Slots {
            free: Arc::new(Semaphore::new(count)),
            taken: Mutex::default(),
            idle: Notify::new(),
        })
    }

    /// A slot for a new connection. Where none is free, the connection that has
    /// waited longest for a request loses its own; where none waits, the first
    /// that does.
    pub async fn take(self: &Arc<Slots>) -> Arc<Slot> {
        let permit = loop {
            let idle = self.idle.notified();
            if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
                break permit;
            }
            let freed = self.make_room();
            tokio::select! {
                // Never closed.
                Ok(permit) = Arc::clone(&self.free).acquire_owned() => break permit,
                () = idle, if !freed => {}
            }
        };
        let lost = Arc::new(Notify::new());
        let mut taken = self.taken();
        taken.last += 1;
        let id = taken.last;
        let connection = Connection {
            standing: Standing::Waits(Instant::now()),
            lost: Arc::clone(&lost),
        };
        taken.by.insert(id, connection);
        drop(taken);
        Arc::new(Slot {
            id,
            slots: Arc::clone(self),
            lost,
            _permit: permit,
        })
    }

    /// False if no connection waits for a request.
    fn make_room(&self) -> bool {
        let mut taken = self.taken();
        let waiting = taken.by.values_mut().filter_map(|connection| {
            let Standing::Waits(since) = connection.standing else {
                return None;
            };
            Some((since, connection))
        });
        let Some((_, connection)) = waiting.min_by_key(|(since, _)| *since) else {
            return false;
        };
        connection.standing = Standing::Lost;
        connection.lost.notify_one();
        true
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's slot, until it is dropped.
pub(super) struct Slot {
    id: u64,
    slots: Arc<Slots>,
    lost: Arc<Notify>,
    _permit: OwnedSemaphorePermit,
}

impl Slot {
    /// Ends when another connection needs it.
    pub async fn lost(&self) {
        self.lost.notified().await;
    }

    /// The head of a request came. It is kept until the answer is over; `None`:
    /// the slot was lost before.
    pub fn answer(self: &Arc<Slot>) -> Option<Answering> {
        let answers = self.moves(|now| match now {
            Standing::Lost => None,
            _ => Some(Standing::Answers),
        });
        answers.then(|| Answering(Arc::clone(self)))
    }

    /// All that was written has left.
    pub fn flushed(&self) {
        let waits = self.moves(|now| match now {
            Standing::Ends => Some(Standing::Waits(Instant::now())),
            _ => None,
        });
        if waits {
            self.slots.idle.notify_one();
        }
    }

    /// True if it took another standing.
    fn moves(&self, to: impl FnOnce(Standing) -> Option<Standing>) -> bool {
        let mut taken = self.slots.taken();
        let Some(connection) = taken.by.get_mut(&self.id) else {
            return false;
        };
        let next = to(connection.standing);
        connection.standing = next.unwrap_or(connection.standing);
        next.is_some()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.taken().by.remove(&self.id);
    }
}

/// While it lives, a request is answered, and nobody takes the slot.
pub(super) struct Answering(Arc<Slot>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.moves(|_| Some(Standing::Ends));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn take(slots: &Arc<Slots>) -> Option<Arc<Slot>> {
        slots.take().now_or_never()
    }

    fn is_lost(slot: &Slot) -> bool {
        slot.lost().now_or_never().is_some()
    }

    #[test]
    fn who_has_waited_longest_makes_room() {
        let slots = Slots::new(3);
        let [a, b, c] = [(); 3].map(|()| take(&slots).unwrap());
        // It waits anew, so longest is now another.
        drop(a.answer().unwrap());
        a.flushed();
        assert!(take(&slots).is_none());
        assert_eq!([&a, &b, &c].map(|slot| is_lost(slot)), [false, true, false]);
        assert!(b.answer().is_none(), "too late");
        drop(b);
        assert!(take(&slots).is_some());
        assert_eq!([&a, &c].map(|slot| is_lost(slot)), [false, false]);
    }

    #[test]
    fn an_answer_keeps_its_place_until_its_last_byte_has_left() {
        let slots = Slots::new(1);
        let slot = take(&slots).unwrap();
        let answering = slot.answer().unwrap();
        slot.flushed();
        let mut newcomer = Box::pin(slots.take());
        assert!(newcomer.as_mut().now_or_never().is_none());
        drop(answering);
        assert!(newcomer.as_mut().now_or_never().is_none());
        assert!(!is_lost(&slot));
        slot.flushed();
        assert!(newcomer.as_mut().now_or_never().is_none());
        assert!(is_lost(&slot));
        drop(slot);
        assert!(newcomer.now_or_never().is_some());
    }
}
