//! `serve`: the status page, until it is told to end.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cli::Outcome;
use crate::cli::args::ServeArgs;
use crate::cli::context::Context;
use crate::cli::report::Failure;
use crate::cli::viewer::{gather, site};
use crate::cli::waking::{Bell, Waking};
use crate::ops::Kind;
use crate::serve::{Access, Doors, JobView, Served, Site, serve};

/// Where nobody says.
const USUAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8710);

/// A page that is served.
pub struct Page {
    site: Arc<Site>,
    place: SocketAddr,
    /// Rung when a view was made.
    bell: Bell,
    /// Whether one is being made.
    gathering: Arc<AtomicBool>,
    /// Whether another one is wanted after it.
    wanted: bool,
    /// The server ends with it.
    _served: Served,
}

impl Page {
    /// Opens the doors. Nothing is shown yet.
    pub fn open(context: &Context, args: &ServeArgs, bell: Bell) -> Result<Self, Failure> {
        let section = &context.config.serve;
        let listen = args.listen.or(section.listen).unwrap_or(USUAL);
        let token = args.token_file.as_ref().or(section.token_file.as_ref());
        let token = token.map(|file| crate::config::secret(file)).transpose();
        let token = token
            .map_err(|why| Failure::usage(why, "Write a long random word into it: `openssl rand -hex 32 > FILE`."))?;
        if token.as_ref().is_some_and(|token| token.len() < 16) {
            let hint = "Write a long random word into it: `openssl rand -hex 32 > FILE`.";
            return Err(Failure::usage("the token has less than 16 characters: it could be guessed", hint));
        }
        let proxied = args.behind_proxy || section.behind_proxy;
        if !listen.ip().is_loopback() && token.is_none() && !proxied {
            return Err(Failure::usage(
                format!("{listen} can be reached from elsewhere, and nothing asks who it is"),
                "Give visitors a token (`--token-file FILE`), put a proxy that asks in front of it (`--behind-proxy`), or listen on 127.0.0.1.",
            ));
        }
        let mut hosts = section.hosts.clone();
        hosts.push(listen.ip().to_string());
        // Who knows a token is no page of somebody else's; who comes through a proxy comes under its name.
        let any_host = proxied || (token.is_some() && !listen.ip().is_loopback());
        let access = Access::new(token.as_deref(), &hosts, any_host);
        let rung = bell.clone();
        let site = site(move || rung.ring(), access);
        let cannot = |e: std::io::Error| {
            let hint = "Choose another one: `--listen 127.0.0.1:PORT`.".to_owned();
            Failure::new(Kind::Failed, format!("could not listen on {listen}: {e}"), Some(hint))
        };
        let doors = Doors::open(listen).map_err(cannot)?;
        let place = doors.place().map_err(cannot)?;
        let served = serve(doors, Arc::clone(&site)).map_err(cannot)?;
        Ok(Self { site, place, bell, gathering: Arc::default(), wanted: false, _served: served })
    }

    /// Where it is.
    pub fn place(&self) -> SocketAddr {
        self.place
    }

    /// Makes a new view, and waits for it.
    pub fn refresh(&self, context: &Context) -> Result<(), Failure> {
        match gather(context, Vec::new()) {
            Ok(view) => {
                self.site.show(view);
                Ok(())
            }
            Err(failure) => {
                self.site.fail(failure.lines().join("; "));
                Err(failure)
            }
        }
    }

    /// Lets a new view be made by a thread of its own, unless the one that is shown is young: a store that does not answer holds nobody
    /// up. Rings when it is done; what goes wrong is on the page.
    pub fn refresh_soon(&mut self, context: &Context, jobs: impl FnOnce() -> Vec<JobView>, always: bool) {
        self.wanted |= always;
        if (self.site.is_fresh() && !self.wanted) || self.gathering.swap(true, Ordering::Relaxed) {
            return;
        }
        self.wanted = false;
        let (context, jobs) = (context.twin(), jobs());
        let (site, bell, gathering) = (Arc::clone(&self.site), self.bell.clone(), Arc::clone(&self.gathering));
        std::thread::spawn(move || {
            match gather(&context, jobs) {
                Ok(view) => site.show(view),
                Err(failure) => {
                    // Once, not at each visit.
                    if site.fail(failure.lines().join("; ")) {
                        context.ui.warning(failure.said());
                    }
                }
            }
            gathering.store(false, Ordering::Relaxed);
            bell.ring();
        });
    }
}

/// Runs it.
pub fn run(context: &Context, args: &ServeArgs) -> Result<Outcome, Failure> {
    let no_pipe = |e: std::io::Error| Failure::new(Kind::Failed, format!("signals cannot be waited for: {e}"), None);
    let waking = Waking::new(&[SIGINT, SIGTERM]).map_err(no_pipe)?;
    let mut page = Page::open(context, args, waking.bell())?;
    // What no visit can mend is told at once; a store that is away may come back.
    match page.refresh(context) {
        Err(failure) if failure.kind() == Kind::Failed => context.ui.warning(failure.said()),
        other => other?,
    }
    context.ui.answer(format!("serving   http://{}", page.place()))?;
    while !context.stop.load(Ordering::Relaxed) {
        waking.wait(None).map_err(no_pipe)?;
        page.refresh_soon(context, Vec::new, false);
    }
    context.ui.story("stopped");
    Ok(Outcome::Done)
}
