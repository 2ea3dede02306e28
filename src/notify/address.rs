//! Addresses of channels: URLs of which all but host and port is secret.

use std::fmt;

use url::Url;

use super::Error;

/// A URL. Whoever knows it can write there: it shows no more than its place.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Url);

impl Address {
    /// Reads one.
    ///
    /// # Errors
    /// It is no `http://` or `https://` URL with a host.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| Error::Address(format!("the URL of a channel {why}"));
        let url = Url::parse(text.trim()).map_err(|e| bad(&format!("is none: {e}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("begins with `https://` or `http://`"));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(bad("names no host"));
        }
        Ok(Self(url))
    }

    /// Host and port: what may be shown.
    pub fn place(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        self.0.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// The whole. Not to be shown.
    pub(super) fn expose(&self) -> Url {
        self.0.clone()
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({}/...)", self.place())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_its_place_and_no_more() {
        let address = Address::parse(" https://user:pw@hooks.example:8443/services/T0/secret?token=x\n").unwrap();
        assert_eq!(address.place(), "hooks.example:8443");
        let shown = format!("{address:?}");
        assert!(!shown.contains("secret") && !shown.contains("pw") && !shown.contains("token"), "{shown}");
        for (text, expected) in [("ftp://x/secret", "begins with"), ("secret", "is none"), ("https:///secret", "none")]
        {
            let error = Address::parse(text);
            if let Err(error) = error {
                assert!(!error.to_string().contains("secret"), "{error}");
                assert!(error.to_string().contains(expected), "{error}");
            }
        }
    }
}
