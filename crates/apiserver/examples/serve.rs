//! Serves an empty cluster on a loopback port until interrupted: `cargo run -p weft-apiserver --example serve FILE`
//! writes the kubeconfig to FILE.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use tokio::sync::watch;
use weft_apiserver::{ApiServer, Config};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = PathBuf::from(std::env::args().nth(1).ok_or("usage: serve KUBECONFIG-FILE")?);
    let server = ApiServer::new(Config::default())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let url = format!("https://{}", listener.local_addr()?);
    std::fs::write(&file, server.kubeconfig(&url, "example"))?;
    println!("{url}: kubectl --kubeconfig {}", file.display());
    let (_keep, drain) = watch::channel(false);
    server.serve(listener, drain).await?;
    Ok(())
}
