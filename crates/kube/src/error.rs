//! What the API server answered, or why it did not, in words.

use std::{error::Error, fmt};

/// A request failed.
#[derive(Debug)]
pub struct ApiError(kube::Error);

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for ApiError {
    /// The server's own words; else every cause, from the outermost to the one that says what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let kube::Error::Api(status) = &self.0 {
            return write!(f, "{} ({} {})", status.message, status.code, status.reason);
        }
        Causes(&self.0).fmt(f)
    }
}

/// An error with its causes; those that say again what was said are left out.
pub(crate) struct Causes<'a>(pub(crate) &'a (dyn Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let words = error.to_string();
            if !said.contains(&words) {
                write!(f, ": {words}")?;
                said = words;
            }
            cause = error.source();
        }
        Ok(())
    }
}

impl Error for ApiError {}

impl ApiError {
    pub(crate) fn kube(&self) -> &kube::Error {
        &self.0
    }

    /// There was no answer, or one that only says that no API server answers. The client tells of it, once for all requests.
    pub fn is_away(&self) -> bool {
        match &self.0 {
            kube::Error::HyperError(_) | kube::Error::Service(_) => true,
            kube::Error::Api(status) => is_away(status.code),
            _ => false,
        }
    }
}

/// A load balancer answers with such a status when no API server behind it does; so does an API server that is starting or cannot reach
/// its storage.
pub(crate) fn is_away(status: u16) -> bool {
    matches!(status, 502..=504)
}
