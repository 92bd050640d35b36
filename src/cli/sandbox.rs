//! `reelq sandbox`: a local provider to rehearse with.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use super::failure::{ExitStatus, Failure};
use crate::config::tcp_address;
use crate::sandbox::{self, Bill, MODEL, Micros, Options, Prices, Size};
use crate::signals::Signals;

/// Serve the provider's API on this machine, at no cost
///
/// Checks requests as strictly as the provider's documentation says and makes real, playable
/// MP4s. `GET /_bill` says what was accepted and what it would have cost. Input images are not
/// fetched; tasks are kept in memory and end with the sandbox.
///
/// A rate is a share from 0 to 1.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  Rehearse at no cost:
    reelq sandbox
    REELQ_PROVIDER__BASE_URL=http://127.0.0.1:8788 REELQ_PROVIDER__API_KEY=any reelq run

  A bad day, the same every time: one answer in ten lost, one download in five cut,
  links that die after 30 seconds:
    reelq sandbox --seed 1 --lose-rate 0.1 --cut-rate 0.2 --link-ttl 30s

  What a batch would cost at other prices:
    reelq sandbox --generation-time 0s --price 480p=0.05,720p=0.10
    curl http://127.0.0.1:8788/_bill")]
pub struct Args {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8788", value_parser = address)]
    pub listen: SocketAddr,

    /// Allow an address that other machines can reach (there is no TLS, and anyone can read the bill)
    #[arg(long)]
    pub allow_remote: bool,

    /// The only key to accept; without it any key will do
    #[arg(long)]
    pub key: Option<String>,

    /// How long a task takes, give or take a fifth
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    pub generation_time: Duration,

    /// Rate of tasks that end as failed
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate)]
    pub fail_rate: f64,

    /// Rate of submissions turned away with 429 or 503, not billed
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate)]
    pub error_rate: f64,

    /// Rate of submissions accepted and billed, but whose answer is lost
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate)]
    pub lose_rate: f64,

    /// Rate of polls answered with 429, 500, 502 or 503
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate)]
    pub poll_error_rate: f64,

    /// Rate of downloads whose connection closes half-way
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate)]
    pub cut_rate: f64,

    /// Rate of downloads that end half-way without any error
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate)]
    pub truncate_rate: f64,

    /// How long a video_url works before it answers 410; without it, for ever
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub link_ttl: Option<Duration>,

    /// How long to hold back each answer
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    pub latency: Duration,

    /// Repeat the faults of an earlier run with this seed
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Price of a second of video for the bill [default: 480p=0.08,720p=0.14,1080p=0.25]
    #[arg(long = "price", value_name = "SIZE=AMOUNT", value_delimiter = ',', value_parser = price)]
    pub prices: Vec<(Size, Micros)>,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    tcp_address(text).ok_or_else(|| "an address is IP:PORT or localhost:PORT".into())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.0..=1.0).contains(rate));
    rate.ok_or_else(|| "a rate is a number from 0 to 1".into())
}

fn price(text: &str) -> Result<(Size, Micros), String> {
    let (size, amount) = text
        .split_once('=')
        .ok_or("a price is written like 720p=0.14")?;
    Ok((size.parse()?, amount.parse()?))
}

impl Args {
    /// The options that the arguments stand for.
    pub fn options(self) -> Options {
        let mut prices = Prices::default();
        for (size, price) in self.prices {
            prices.set(size, price);
        }
        Options {
            listen: self.listen,
            allow_remote: self.allow_remote,
            key: self.key,
            generation_time: self.generation_time,
            fail_rate: self.fail_rate,
            error_rate: self.error_rate,
            lose_rate: self.lose_rate,
            poll_error_rate: self.poll_error_rate,
            cut_rate: self.cut_rate,
            truncate_rate: self.truncate_rate,
            link_ttl: self.link_ttl,
            latency: self.latency,
            seed: self.seed,
            prices,
            ..Options::default()
        }
    }
}

/// Serves until Ctrl-C or SIGTERM, then prints the bill's totals; with `json`, one JSON object
/// for the start and one for the end.
///
/// # Errors
/// The sandbox cannot listen (status 69 where the address is in use, 2 where it may not be used),
/// or its server fails.
pub async fn run(args: Args, json: bool) -> Result<ExitStatus, Failure> {
    let options = args.options();
    let (listen, allow_remote, key) = (options.listen, options.allow_remote, options.key.clone());
    let mut sandbox = sandbox::start(options)
        .await
        .map_err(|error| cannot_start(listen, allow_remote, &error))?;
    // Before the greeting: whoever reads it may send a signal at once.
    let mut signals = Signals::listen().map_err(Failure::no_signals)?;

    print(&greeting(&sandbox.base_url(), key.as_deref(), json));
    tokio::select! {
        ended = sandbox.wait() => ended.map_err(|error| {
            Failure::failed(format_args!("the sandbox's server failed: {error}"))
        })?,
        () = signals.next() => {}
    }
    print(&farewell(&sandbox.shutdown().await, json));
    Ok(ExitStatus::Done)
}

fn cannot_start(listen: SocketAddr, allow_remote: bool, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::AddrInUse => Failure::new(
            ExitStatus::Unavailable,
            format_args!(
                "cannot listen on {listen}: the address is in use, perhaps by another sandbox; \
                 end that one, or choose another with --listen ({}:0 takes a free port)",
                listen.ip()
            ),
        ),
        io::ErrorKind::InvalidInput if !listen.ip().is_loopback() && !allow_remote => {
            Failure::usage(format_args!("{error}: pass --allow-remote"))
        }
        io::ErrorKind::InvalidInput => Failure::usage(error),
        _ => Failure::failed(format_args!("cannot listen on {listen}: {error}")),
    }
}

fn greeting(base_url: &str, key: Option<&str>, json: bool) -> String {
    if json {
        return json!({"base_url": base_url, "model": MODEL, "any_key": key.is_none()}).to_string();
    }
    let key_advice = match key {
        Some(_) => "the key given with --key",
        None => "any key, for instance REELQ_PROVIDER__API_KEY=any",
    };
    let token = if key.is_some() { "$KEY" } else { "any" };
    format!(
        r#"The sandbox listens on {base_url} and costs nothing. To use it, put into config.toml

    [provider]
    base_url = "{base_url}"

and run reelq with {key_advice}. Or by hand:

    curl {base_url}/v1/videos -H "Authorization: Bearer {token}" -H 'Content-Type: application/json' \
      -d '{{"model": "{MODEL}", "prompt": "A calm product video", "image_url": "https://example.com/source.jpg", "duration": 6, "size": "720p"}}'

What was accepted so far: {base_url}/_bill
Ctrl-C ends it."#
    )
}

fn farewell(bill: &Bill, json: bool) -> String {
    if json {
        let mut totals = json!(bill);
        if let Some(totals) = totals.as_object_mut() {
            totals.remove("tasks"); // they may be many, and /_bill had them
        }
        return totals.to_string();
    }
    format!(
        "Accepted {} ({} with the answer lost), refused {}; {} polls, {} downloads. It would have cost {}.",
        bill.accepted,
        bill.answers_lost,
        bill.refused,
        bill.polls,
        bill.downloads,
        Micros(bill.cost_micros)
    )
}

/// Prints a line; that nobody reads it is no reason to stop serving.
fn print(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(args: &[&str]) -> Result<Options, clap::Error> {
        let all = std::iter::once("sandbox").chain(args.iter().copied());
        Cli::try_parse_from(all).map(|cli| cli.args.options())
    }

    #[test]
    fn without_arguments_it_is_the_default() {
        let (parsed, default) = (parse(&[]).unwrap(), Options::default());
        assert_eq!(parsed.listen, default.listen);
        assert_eq!(parsed.generation_time, default.generation_time);
        assert_eq!(
            (parsed.key, parsed.link_ttl, parsed.seed),
            (None, None, None)
        );
        assert_eq!(parsed.prices, default.prices);
    }

    #[test]
    fn arguments_are_taken_and_checked() {
        let options = parse(&[
            "--price",
            "480p=0.05,1080p=1",
            "--generation-time",
            "1m",
            "--lose-rate",
            "1",
        ])
        .unwrap();
        assert_eq!(
            (options.prices.p480, options.prices.p1080),
            (Micros(50_000), Micros(1_000_000))
        );
        let local = parse(&["--listen", "localhost:8788"]).unwrap().listen;
        assert_eq!(local, Options::default().listen);
        assert_eq!(options.prices.p720, Prices::default().p720);
        assert_eq!(
            (options.generation_time, options.lose_rate),
            (Duration::from_secs(60), 1.0)
        );
        for wrong in [
            ["--price", "4k=1"],
            ["--price", "720p"],
            ["--lose-rate", "1.1"],
            ["--cut-rate", "NaN"],
            ["--generation-time", "5"],
            ["--listen", "localhost"],
        ] {
            assert!(parse(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_said_so() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let sandbox = sandbox::start(Options {
            listen,
            ..Options::default()
        })
        .await
        .unwrap();
        let taken = sandbox.local_addr().to_string();
        let Cli { args } = Cli::try_parse_from(["sandbox", "--listen", &taken]).unwrap();
        let error = run(args, false).await.unwrap_err();
        assert_eq!(error.status, ExitStatus::Unavailable);
        assert!(
            error.message.contains("in use") && error.message.contains("--listen"),
            "{error}"
        );
        let Cli { args } = Cli::try_parse_from(["sandbox", "--listen", "0.0.0.0:0"]).unwrap();
        let error = run(args, false).await.unwrap_err();
        assert_eq!(error.status, ExitStatus::Usage);
        assert!(error.message.contains("--allow-remote"), "{error}");
    }

    #[test]
    fn start_and_end_can_be_read_by_programs() {
        let greeting: serde_json::Value =
            serde_json::from_str(&greeting("http://127.0.0.1:1", None, true)).unwrap();
        assert_eq!(greeting["base_url"], "http://127.0.0.1:1");
        assert!(
            super::greeting("http://127.0.0.1:1", None, false)
                .contains("base_url = \"http://127.0.0.1:1\"")
        );
    }
}
