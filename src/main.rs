//! temporary
use reelq::{config, service};
#[tokio::main]
async fn main() {
    tracing_subscriber::fmt()
        .with_env_filter(std::env::var("REELQ_LOG").unwrap_or("reelq=debug".into()))
        .with_writer(std::io::stderr)
        .init();
    let s = config::load(config::Sources::of_process(arg("--config"), arg("--database")).unwrap())
        .unwrap();
    let sv = service::assemble(
        &s,
        std::sync::Arc::new(
            reelq::store::Store::open(&s.database, reelq::store::Open::Create)
                .await
                .unwrap(),
        ),
        std::env::args().any(|a| a == "--until-idle"),
    )
    .await
    .unwrap();
    println!("{:?}", sv.daemon.run().await);
}

fn arg(n: &str) -> Option<std::path::PathBuf> {
    let a: Vec<String> = std::env::args().collect();
    a.iter()
        .position(|x| x == n)
        .map(|i| a[i + 1].clone().into())
}
