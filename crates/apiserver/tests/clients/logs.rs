//! kubectl logs, answered by a stand-in for the kubelets.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use serde_json::Value;
use tokio::sync::mpsc;
use weft_apiserver::{LogError, LogOptions, PodLogs};

use crate::support::Cluster;

/// Remembers what was asked, says a line, and goes on with what the channel brings.
struct Kubelet {
    asked: Mutex<Vec<LogOptions>>,
    more: Mutex<Option<mpsc::Receiver<Bytes>>>,
}

impl PodLogs for Kubelet {
    fn logs(
        &self,
        pod: Value,
        options: LogOptions,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Bytes>, LogError>> {
        self.asked.lock().expect("not poisoned").push(options.clone());
        let more = if options.follow { self.more.lock().expect("not poisoned").take() } else { None };
        let first = Bytes::from(format!("{}/{} says hello\n", pod["metadata"]["name"], options.container));
        Box::pin(async move {
            if options.previous {
                return Err(LogError::Unavailable(
                    "previous terminated container \"one\" not found".to_owned(),
                ));
            }
            let rest = stream::unfold(more, |more| async move {
                let mut more = more?;
                let chunk = more.recv().await?;
                Some((chunk, Some(more)))
            });
            Ok(stream::once(async { first }).chain(rest).boxed())
        })
    }
}

#[test]
fn logs_come_from_the_kubelet_with_what_was_asked() {
    let cluster = Cluster::start();
    let pod = |name: &str, node: &str, containers: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{nodeName: '{node}', containers: [{containers}]}}\n"
        )
    };
    cluster.apply(&pod("p", "node-1", "{name: one, image: i}"));
    cluster.apply(&pod("q", "node-1", "{name: one, image: i}, {name: two, image: i}"));
    cluster.apply(&pod("nowhere", "", "{name: one, image: i}"));
    assert!(cluster.refused(&["logs", "p"], "").contains("no kubelet"));
    let (sender, receiver) = mpsc::channel(4);
    let kubelet = Arc::new(Kubelet { asked: Mutex::default(), more: Mutex::new(Some(receiver)) });
    cluster.server.set_logs(kubelet.clone());
    assert_eq!(cluster.kubectl(&["logs", "p"]), "\"p\"/one says hello\n");
    assert_eq!(cluster.kubectl(&["logs", "q", "-c", "two"]), "\"q\"/two says hello\n");
    cluster.kubectl(&["logs", "p", "--tail=5", "--timestamps", "--since=10s"]);
    let asked = kubelet.asked.lock().expect("not poisoned").last().cloned().expect("a request");
    assert_eq!((asked.tail_lines, asked.timestamps, asked.since_seconds), (Some(5), true, Some(10)));
    assert!(cluster.refused(&["logs", "p", "--previous"], "").contains("previous terminated container"));
    assert!(
        cluster.refused(&["logs", "q", "-c", "three"], "").contains("container three is not valid for pod q")
    );
    assert!(cluster.refused(&["logs", "nowhere"], "").contains("does not have a host assigned"));

    let following = cluster.command(&["logs", "-f", "p"]).spawn().expect("kubectl");
    sender.blocking_send(Bytes::from_static(b"and more\n")).expect("somebody follows");
    drop(sender);
    let output = following.wait_with_output().expect("kubectl");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "\"p\"/one says hello\nand more\n");
}
