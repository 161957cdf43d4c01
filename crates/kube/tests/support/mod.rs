//! An API server that misbehaves on request.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    net::{Ipv4Addr, TcpListener},
    time::Duration,
};

use tokio::sync::watch;
use weft_apiserver::{ApiServer, Config};
use weft_kube::Client;
use weft_scratch::Folder;

pub const LIMIT: Duration = Duration::from_secs(30);

pub struct Cluster {
    pub server: ApiServer,
    pub kube: kube::Client,
    folder: Folder,
    stop: watch::Sender<bool>,
}

impl Cluster {
    pub async fn start() -> Self {
        let server = ApiServer::new(Config::default()).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let folder = weft_scratch::folder();
        let path = folder.path().join("kubeconfig");
        std::fs::write(&path, server.kubeconfig(&url, "test")).unwrap();
        let (stop, drain) = watch::channel(false);
        let serving = server.clone();
        tokio::spawn(async move { serving.serve(listener, drain).await.unwrap() });
        let file = kube::config::Kubeconfig::read_from(path).unwrap();
        let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await.unwrap();
        Self { server, kube: kube::Client::try_from(config).unwrap(), folder, stop }
    }

    pub async fn client(&self) -> Client {
        Client::new(Some(&self.folder.path().join("kubeconfig"))).await.unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}
