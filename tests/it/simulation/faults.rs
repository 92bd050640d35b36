//! Everything that goes wrong by itself: crashes, storms, jumps of the clock, a database that refuses.

use sqlx::AssertSqlSafe;

use super::*;

impl Sim {
    /// Everything in memory is gone. What was on its way may have arrived.
    pub(super) async fn crash(&mut self) {
        self.come_back().await;
        self.tell(|| "crash".to_owned());
        for w in 0..self.workers.len() {
            for h in 0..self.workers[w].hand.len() {
                let open = self.workers[w].hand[h].report.is_none();
                if open && self.rng.chance(40) {
                    self.perform(w, h).await;
                }
            }
        }
        self.workers.clear();
        if self.rng.chance(30) {
            self.audit().await;
        }
        if self.rng.chance(30) {
            self.steady += self.rng.within(0, 2 * HOUR);
        }
        if self.plan.jumps > 0 && self.rng.chance(40) {
            let days = if self.rng.chance(50) { 1 } else { -1 };
            self.offset += days * DAY;
            self.jumped = true;
            self.jumped_unseen = true;
            self.tell(|| format!("the clock jumps unseen by {days} days"));
        }
        if self.plan.foreign && self.rng.chance(50) {
            self.endpoint = *self.rng.pick(&[ENDPOINT, OTHER_ENDPOINT]);
        }
        self.start().await;
    }

    pub(super) async fn jump(&mut self) {
        if self.away.is_some() {
            return;
        }
        let days = if self.rng.chance(50) { 1 } else { -1 };
        self.offset += days * DAY;
        self.jumped = true;
        self.tell(|| format!("the clock jumps by {days} days"));
        for worker in &mut self.workers {
            worker.engine.clock_jumped(days * DAY).await.unwrap();
        }
    }

    pub(super) fn change_weather(&mut self) {
        self.world.now = self.steady;
        self.end_storm();
        self.world.weather = if self.rng.chance(70) {
            *self.rng.pick(&Weather::STORMS)
        } else {
            Weather::Fine
        };
        let weather = self.world.weather;
        self.tell(|| format!("the weather is {weather:?}"));
        if weather != Weather::Fine {
            self.storm = Some(Storm {
                since: self.steady,
                unknown: 0,
                refused: 0,
                starts: 1,
            });
        }
    }

    /// An outage leaves a handful of unconfirmed jobs, not one a try.
    pub(super) fn end_storm(&mut self) {
        let Some(storm) = self.storm.take() else {
            return;
        };
        let span = self.steady - storm.since;
        let minds = storm.starts * self.plan.workers as u32;
        // Those on the wire when it began, then pauses of 5, 10, 20 … seconds, up to an hour.
        let doublings = (span / (5 * SECOND) + 1).ilog2();
        let hours = (span / HOUR) as u32;
        let most = minds * (POSTS_ON_THE_WIRE as u32 + doublings.min(10) + hours);
        assert!(
            storm.unknown <= most,
            "{} unknown in {span} ms of {:?}, at most {most} were expected",
            storm.unknown,
            self.world.weather
        );
        // Pauses of 1, 2, 4 … seconds, up to a minute.
        let minutes = (span / MINUTE) as u32;
        let most = minds * (POSTS_ON_THE_WIRE as u32 + 7 + minutes);
        assert!(
            storm.refused <= most,
            "{} refused in {span} ms",
            storm.refused
        );
    }

    /// A table is out of reach, and every statement that needs it fails.
    pub(super) async fn refuse(&mut self) {
        if self.away.is_some() {
            self.come_back().await;
            return;
        }
        let table = *self.rng.pick(&["jobs", "submissions", "events", "gates"]);
        self.away = Some(table);
        self.rename(table, "away").await;
        self.tell(|| format!("the database refuses: {table}"));
    }

    pub(super) async fn come_back(&mut self) {
        if let Some(table) = self.away.take() {
            self.rename("away", table).await;
            self.tell(|| "the database is back".to_owned());
        }
    }

    async fn rename(&mut self, from: &str, to: &str) {
        let sql = format!("ALTER TABLE {from} RENAME TO {to}");
        sqlx::query(AssertSqlSafe(sql))
            .execute(&mut self.raw)
            .await
            .unwrap();
    }
}
