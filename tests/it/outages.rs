//! Sixty jobs and a provider that is out of order; caps that hold.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::film::{Layout, film};
use crate::provider::{Answer, End, Kind, Provider, Script, Seen, busy, html, json, status};
use crate::rig::{Rig, connect};

/// How a provider is out of order.
#[derive(Clone, Copy, Debug)]
struct Outage {
    name: &'static str,
    /// For how long, counted from the first POST.
    seconds: u64,
    weather: fn(&Seen) -> Option<Answer>,
    /// The most jobs that may be left for a person to judge.
    unconfirmed: usize,
}

const OUTAGES: &[Outage] = &[
    Outage {
        name: "a revoked key",
        seconds: 12,
        weather: |_| Some(json(401, &busy("invalid_api_key"))),
        unconfirmed: 0,
    },
    Outage {
        name: "an empty account",
        seconds: 12,
        weather: |seen| match seen.kind {
            Kind::Post => Some(json(403, &busy("insufficient_user_quota"))),
            _ => None,
        },
        unconfirmed: 0,
    },
    Outage {
        name: "a gateway without channels",
        seconds: 12,
        weather: |seen| match seen.kind {
            Kind::Post => Some(json(503, &busy("no available channel"))),
            _ => None,
        },
        unconfirmed: 0,
    },
    Outage {
        name: "too many requests",
        seconds: 12,
        weather: |_| Some(html(429)),
        unconfirmed: 0,
    },
    Outage {
        name: "503 everywhere",
        seconds: 12,
        weather: |_| Some(html(503)),
        unconfirmed: 3,
    },
    Outage {
        name: "500 for POSTs alone, which are charged",
        seconds: 12,
        weather: |seen| match seen.kind {
            Kind::Post => Some(json(500, "{}").bills()),
            _ => None,
        },
        unconfirmed: 5,
    },
    Outage {
        name: "connections that are reset",
        seconds: 12,
        weather: |_| Some(status(200).ends(End::NoByteReset)),
        unconfirmed: 3,
    },
];

const WAITING: usize = 60;

/// Sixty jobs that a provider as it should be would do at once.
async fn sixty(rig: &mut Rig) {
    let jobs = (0..WAITING)
        .map(|n| {
            let job = format!("job{n}");
            let film = film(Layout::MoovFirst, &job, 6, 3_000);
            (job, Script::kind(film))
        })
        .collect();
    rig.add(jobs).await;
}

/// What must hold after any outage: no job failed, a few tries, and whatever is
/// not unconfirmed is done.
async fn check_outage(rig: &Rig, name: &str, most: usize) {
    let mut wrong = rig.violations().await;
    let (rows, lines) = (rig.rows().await, rig.lines().await);
    let count = |state: &str| rows.iter().filter(|row| row.state == state).count();
    if count("unconfirmed") > most || count("done") + count("unconfirmed") != WAITING {
        wrong.push(format!(
            "{} done, {} unconfirmed",
            count("done"),
            count("unconfirmed")
        ));
    }
    let refused = lines
        .iter()
        .filter(|line| line.outcome != "accepted")
        .count();
    let probes = rig.provider.count(Kind::Probe, None);
    if refused + probes > 25 {
        wrong.push(format!(
            "{refused} POSTs and {probes} free requests in vain"
        ));
    }
    assert!(
        wrong.is_empty(),
        "{name}:\n{}\n{}",
        wrong.join("\n"),
        rig.words()
    );
}

/// Outages delay jobs and never fail them, and cost few of them a person's time.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_fails_no_job() {
    let runs = OUTAGES.iter().map(|outage| {
        tokio::spawn(async move {
            let mut rig = Rig::new();
            sixty(&mut rig).await;
            let begin = OnceLock::new();
            rig.provider.weather(Some(Arc::new(move |seen| {
                let begin = *begin.get_or_init(|| seen.at);
                let lasts = seen.at < begin + Duration::from_secs(outage.seconds);
                lasts.then(|| (outage.weather)(seen)).flatten()
            })));
            rig.run_until_idle().await;
            check_outage(&rig, outage.name, outage.unconfirmed).await;
        })
    });
    for run in runs.collect::<Vec<_>>() {
        run.await.unwrap();
    }
}

/// The first connections are closed before a byte of them is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_connection_is_unclear() {
    let mut rig = Rig::new();
    sixty(&mut rig).await;
    rig.provider.hang_up(3);
    rig.run_until_idle().await;
    check_outage(&rig, "closed connections", 3).await;
    let rows = rig.rows().await;
    assert!(rows.iter().any(|row| row.state == "unconfirmed"));
}

/// Nobody listens, until a few tries were in vain.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_port_fails_no_job() {
    let mut rig = Rig::with(Provider::closed());
    sixty(&mut rig).await;
    let daemon = rig.start_behind(&[], true);
    let mut look = connect(&rig.database()).await;
    rig.until("four tries in vain", async || {
        let sql = "SELECT detail ->> 'tries' FROM gates WHERE name = 'submit'";
        let tries: Option<i64> = sqlx::query_scalar(sql)
            .fetch_optional(&mut look)
            .await
            .unwrap();
        tries.is_some_and(|tries| tries >= 4)
    })
    .await;
    sqlx::Connection::close(look).await.unwrap();
    rig.provider.open();
    daemon.ended().await;
    check_outage(&rig, "a closed port", 0).await;
}

/// Twelve jobs, one of them refused at no cost and one whose end is unclear:
/// what is let through is exactly what the cap allows, over two runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_cap_holds_exactly() {
    const PRICE: (&str, &str) = ("BUDGET__PRICE_PER_SECOND__720P", "0.10");
    let runs = [
        (vec![("BUDGET__MAX_JOBS_PER_DAY", "5")], 5),
        (vec![("BUDGET__MAX_COST_PER_DAY", "3.00"), PRICE], 5),
        (vec![("BUDGET__MAX_COST_PER_DAY", "2.999999"), PRICE], 4),
        (vec![("BUDGET__MAX_COST_PER_DAY", "3.00")], 0),
    ]
    .map(|(settings, through)| tokio::spawn(run_capped(settings, through)));
    for run in runs {
        run.await.unwrap();
    }
}

async fn run_capped(settings: Vec<(&'static str, &'static str)>, through: usize) {
    let mut rig = Rig::new();
    for (name, value) in &settings {
        rig.set(name, value);
    }
    let jobs = (0..12)
        .map(|n| {
            let job = format!("job{n}");
            let mut script = Script::kind(film(Layout::MoovFirst, &job, 6, 3_000));
            match n {
                0 => script.post = vec![json(400, "{}")],
                1 => script.post = vec![json(500, "{}").bills()],
                _ => {}
            }
            (job, script)
        })
        .collect();
    rig.add(jobs).await;
    rig.run_until_idle().await;
    rig.run_until_idle().await;
    let seen = rig.provider.seen();
    let billed = seen.iter().filter(|seen| seen.billed).count();
    assert_eq!(billed, through, "{settings:?}\n{}", rig.words());
    let rows = rig.rows().await;
    let count = |state: &str| rows.iter().filter(|row| row.state == state).count();
    let refused = usize::from(through > 0);
    assert_eq!(count("failed"), refused);
    assert_eq!(count("unconfirmed"), refused);
    assert_eq!(count("pending"), 12 - through - refused);
    assert_eq!(rig.violations().await, Vec::<String>::new());
}
