//! The lab's API, many times a second: by HTTP over the socket of a `kubectl proxy`.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::{Lab, wait_for};

/// A way to the API that is quick.
pub struct Api {
    proxy: Child,
    socket: PathBuf,
}

impl Lab {
    /// Opens it.
    pub fn api(&self) -> Api {
        let socket = self.folder().join("proxy.sock");
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.folder().join("kubeconfig")).arg("proxy");
        command
            .arg(format!("--unix-socket={}", socket.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let api = Api { proxy: command.spawn().unwrap(), socket };
        wait_for("kubectl proxy", || api.try_request("GET", "/version", ""));
        api
    }
}

impl Api {
    /// Puts an object in place of the one that is there.
    #[track_caller]
    pub fn put(&self, path: &str, object: &Value) {
        self.try_request("PUT", path, &object.to_string())
            .unwrap_or_else(|error| panic!("PUT {path}: {error}"));
    }

    fn try_request(&self, method: &str, path: &str, body: &str) -> Result<(), String> {
        let text = |error: std::io::Error| error.to_string();
        let mut stream = UnixStream::connect(&self.socket).map_err(text)?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).map_err(text)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(text)?;
        if answer.starts_with("HTTP/1.1 2") { Ok(()) } else { Err(answer) }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        // It ends with the test.
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}
