//! Videos made when they are asked for, with a small cache of the latest.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::task::JoinError;

use super::movie;
use super::order::Order;

/// The most bytes of videos that are kept.
const MAX_KEPT: usize = 64 << 20;

/// Makes videos one at a time, which bounds memory and leaves the other cores to the client.
#[derive(Default)]
pub struct Films {
    turn: tokio::sync::Mutex<()>,
    kept: Mutex<VecDeque<(u64, Bytes)>>,
}

impl Films {
    /// The video of task `number`.
    ///
    /// # Errors
    /// Only when the runtime is shutting down.
    pub async fn get(&self, number: u64, order: &Order, task_id: &str) -> Result<Bytes, JoinError> {
        if let Some(film) = self.find(number) {
            return Ok(film);
        }
        let _turn = self.turn.lock().await;
        if let Some(film) = self.find(number) {
            return Ok(film);
        }
        let (order, task_id) = (order.clone(), task_id.to_owned());
        let film = Bytes::from(
            tokio::task::spawn_blocking(move || movie::render(&order, &task_id)).await?,
        );
        self.keep(number, film.clone());
        Ok(film)
    }

    fn find(&self, number: u64) -> Option<Bytes> {
        self.kept()
            .iter()
            .find(|(kept, _)| *kept == number)
            .map(|(_, film)| film.clone())
    }

    fn keep(&self, number: u64, film: Bytes) {
        let mut kept = self.kept();
        kept.push_back((number, film));
        while kept.iter().map(|(_, film)| film.len()).sum::<usize>() > MAX_KEPT {
            kept.pop_front();
        }
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(u64, Bytes)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
