//! Mail over SMTP.

use std::fmt;
use std::time::Duration;

use lettre::message::{Mailbox, Mailboxes};
use lettre::transport::smtp::authentication::Credentials;
use lettre::{SmtpTransport, Transport};
use url::Url;

use super::{Error, Failed, Message};

/// Each answer of the server comes within so long.
const DEADLINE: Duration = Duration::from_secs(15);

/// What a configuration says.
#[derive(Debug, Clone, Copy)]
pub struct EmailParts<'p> {
    /// `smtps://HOST`, `smtp://HOST` (TLS is demanded with STARTTLS) or `smtp+plain://HOST` (without TLS), with a user and a port where needed.
    pub server: &'p str,
    /// The password of the user.
    pub password: Option<&'p str>,
    /// The sender.
    pub from: &'p str,
    /// Who gets it.
    pub to: &'p [String],
}

/// A mailbox to write to, and the server that takes it.
#[derive(Clone, PartialEq, Eq)]
pub struct Email {
    server: Url,
    user: Option<String>,
    password: Option<String>,
    from: Mailbox,
    to: Vec<Mailbox>,
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Email({} by {})", Mailboxes::from_iter(self.to.clone()), self.place())
    }
}

impl Email {
    /// Reads the parts.
    ///
    /// # Errors
    /// One of them is not what it should be; a password would go out in the clear.
    pub fn new(parts: &EmailParts<'_>) -> Result<Self, Error> {
        let bad = |what: String| Error::Address(what);
        let server = Url::parse(parts.server).map_err(|e| bad(format!("`smtp` is no URL: {e}")))?;
        if !matches!(server.scheme(), "smtp" | "smtps" | "smtp+plain") {
            return Err(bad("`smtp` begins with `smtps://`, `smtp://` or `smtp+plain://`".to_owned()));
        }
        if server.host_str().is_none_or(str::is_empty) {
            return Err(bad("`smtp` names no host".to_owned()));
        }
        if server.password().is_some() {
            return Err(bad("a password does not belong into `smtp`; put it into `password_file`".to_owned()));
        }
        let user = server.username();
        let user =
            (!user.is_empty()).then(|| percent_encoding::percent_decode_str(user).decode_utf8_lossy().into_owned());
        if user.is_some() != parts.password.is_some() {
            return Err(bad("a user in `smtp` (`smtp://USER@HOST`) and `password_file` go together".to_owned()));
        }
        if user.is_some() && server.scheme() == "smtp+plain" {
            return Err(bad("a password would go out in the clear with `smtp+plain://`".to_owned()));
        }
        let mailbox = |text: &str| {
            text.parse::<Mailbox>().map_err(|e| Error::Address(format!("`{text}` is no address of mail: {e}")))
        };
        let to = parts.to.iter().map(|text| mailbox(text)).collect::<Result<Vec<_>, _>>()?;
        if to.is_empty() {
            return Err(bad("`to` is empty".to_owned()));
        }
        let password = parts.password.map(str::to_owned);
        Ok(Self { server, user, password, from: mailbox(parts.from)?, to })
    }

    /// Host and port of the server.
    fn place(&self) -> String {
        let host = self.server.host_str().unwrap_or_default();
        self.server.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    pub(super) fn send(&self, message: &Message) -> Result<(), Failed> {
        let never = |why: String| Failed { error: Error::Address(why), again: false };
        let mut mail = lettre::Message::builder().from(self.from.clone()).subject(message.headline());
        for to in &self.to {
            mail = mail.to(to.clone());
        }
        // Keeps vacation notices away (RFC 3834).
        let mail = mail
            .header(AutoSubmitted)
            .body(message.text())
            .map_err(|e| never(format!("the mail could not be written: {e}")))?;
        let transport = self.transport().map_err(|e| never(e.to_string()))?;
        transport.send(&mail).map(drop).map_err(|e| {
            let place = self.place();
            let said = why(&e);
            let error = match e.status() {
                Some(code) => Error::Refused { place, said: format!("{code}: {said}") },
                None => Error::Unreachable { place, why: said },
            };
            Failed { error, again: !e.is_permanent() }
        })
    }

    fn transport(&self) -> Result<SmtpTransport, lettre::transport::smtp::Error> {
        let host = self.server.host_str().unwrap_or_default();
        let (builder, port) = match self.server.scheme() {
            "smtps" => (SmtpTransport::relay(host)?, 465),
            "smtp" => (SmtpTransport::starttls_relay(host)?, 587),
            _ => (SmtpTransport::builder_dangerous(host), 25),
        };
        let builder = builder.port(self.server.port().unwrap_or(port)).timeout(Some(DEADLINE));
        Ok(match (&self.user, &self.password) {
            (Some(user), Some(password)) => builder.credentials(Credentials::new(user.clone(), password.clone())),
            _ => builder,
        }
        .build())
    }
}

/// The words of the innermost cause.
fn why(error: &lettre::transport::smtp::Error) -> String {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    let mut cause: &(dyn std::error::Error + 'static) = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    match cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
        Some(WouldBlock | TimedOut) => format!("no answer within {} s", DEADLINE.as_secs()),
        _ => cause.to_string(),
    }
}

/// `Auto-Submitted: auto-generated`.
#[derive(Clone)]
struct AutoSubmitted;

impl lettre::message::header::Header for AutoSubmitted {
    fn name() -> lettre::message::header::HeaderName {
        lettre::message::header::HeaderName::new_from_ascii_str("Auto-Submitted")
    }
    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }
    fn display(&self) -> lettre::message::header::HeaderValue {
        lettre::message::header::HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_do_not_fit_are_named() {
        let to = vec!["Ops <ops@example.org>".to_owned()];
        let parts = |server, password| EmailParts { server, password, from: "lifeboat@example.org", to: &to };
        let email = Email::new(&parts("smtp://me%40example.org@mail.example.org", Some("pw"))).unwrap();
        assert_eq!(email.user.as_deref(), Some("me@example.org"));
        assert!(!format!("{email:?}").contains("pw"));
        for (server, password, expected) in [
            ("smtp://me:pw@mail", Some("pw"), "does not belong"),
            ("smtp://me@mail", None, "go together"),
            ("smtp://mail", Some("pw"), "go together"),
            ("smtp+plain://me@mail", Some("pw"), "in the clear"),
            ("https://mail", None, "begins with"),
        ] {
            let error = Email::new(&parts(server, password)).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("pw@"), "{error}");
        }
        let nobody = EmailParts { server: "smtp://mail", password: None, from: "x", to: &[] };
        assert!(Email::new(&nobody).is_err());
    }
}
