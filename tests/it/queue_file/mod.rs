//! The database itself: what it refuses, what an older one keeps, and what its
//! queries cost.

mod appointments;
mod query_cost;
mod refusals;
mod spoilt_rows;
mod versions;

use reelq::budget::Spent;
use reelq::job::{Event, Evidence, Job, JobId, JobSpec, State};
use reelq::money::Money;
use reelq::step::{self, Policy};
use reelq::store::{Admission, Bounds, Claim, Filter, Open, Store, Trial};
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;
use tempfile::TempDir;

use crate::rig::{connect, folder};
use crate::world::{ENDPOINT, NEW_YEAR};

async fn sql(conn: &mut SqliteConnection, sql: &str) -> Result<u64, String> {
    sqlx::query(AssertSqlSafe(sql))
        .execute(conn)
        .await
        .map(|done| done.rows_affected())
        .map_err(|error| match error {
            sqlx::Error::Database(error) => error.message().to_owned(),
            other => other.to_string(),
        })
}

async fn blank() -> (TempDir, Store, SqliteConnection) {
    let folder = folder();
    let path = folder.path().join("queue.db");
    let store = Store::open(&path, Open::Create).await.unwrap();
    let conn = connect(&path).await;
    (folder, store, conn)
}

/// What a state needs beside its word, as SQL.
fn becoming(state: State) -> String {
    let task = "endpoint = 'e', submitted_at = 1, attempt = 1";
    let made = format!("{task}, task_id = 't' || id, target = '/v/' || id");
    let rest = match state {
        State::Pending => String::new(),
        State::Submitting => format!(", {task}"),
        State::Unconfirmed => {
            format!(", {task}, error_code = 'unconfirmed', error_message = 'm'")
        }
        State::Generating | State::Downloading => format!(", {made}, give_up_at = 9"),
        State::Done => {
            format!(", {made}, path = '/v/' || id, bytes = 1, sha256 = 'x', finished_at = 2")
        }
        State::Failed => {
            ", error_code = 'refused', error_message = 'm', finished_at = 2".to_owned()
        }
        State::Cancelled => ", finished_at = 2".to_owned(),
    };
    format!("UPDATE jobs SET state = '{state}', version = version + 1{rest}")
}

const INSERT: &str =
    "INSERT INTO jobs (prompt, image_url) VALUES ('a boat', 'https://example.com/a.jpg')";

/// JSON to SQLite, and no value to most parsers.
fn strange_metadata() -> [String; 3] {
    [
        r#"{"a":1e999}"#.to_owned(),
        r#"{"\udead":"\ud800"}"#.to_owned(),
        format!("{{\"a\":{}{}}}", "[".repeat(999), "]".repeat(999)),
    ]
}

fn take(job: &Job) -> Admission {
    let event = Event::Claimed {
        cost: Money::ZERO,
        endpoint: ENDPOINT.to_owned(),
    };
    Admission::Take(Box::new(
        step::step(job, event, NEW_YEAR, &Policy::default()).unwrap(),
    ))
}
