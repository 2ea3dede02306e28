//! What the words on the command line mean here: flags before the environment before the configuration. Only this module
//! looks for files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use age::secrecy::SecretString;

use super::args::{Global, Which};
use super::output::Ui;
use super::progress::Console;
use super::report::Failure;
use super::telling::Told;
use super::time::read_time;
use crate::config::{Config, parse_size, same_place};
use crate::model::Moment;
use crate::ops::Kind;
use crate::ops::backup::World;
use crate::plan::restore::Wanted;
use crate::progress::Progress;
use crate::repository::{self, Keys, OpenOptions, Problem, Repository, SyncReport};
use crate::seal::{Keyring, Recipient};
use crate::store::{self, Credentials, Limits, Location, Store, open_url, parse_url};

/// A command's surroundings.
pub struct Context {
    /// Flags.
    pub global: Global,
    /// The configuration, empty where there is none.
    pub config: Config,
    /// Where it was read.
    pub config_file: Option<PathBuf>,
    /// How to speak.
    pub ui: Ui,
    /// Set by Ctrl-C.
    pub stop: Arc<AtomicBool>,
    /// The copy of the configuration that this works on, in place of its repository.
    pub at_copy: Option<String>,
    /// The time as of which the store is read.
    pub as_of: Option<Moment>,
    /// What is known of the run of this process.
    pub told: Arc<Told>,
}

/// Folders of the state directory that are looked into, at most.
const KNOWN_MAX: usize = 1000;

/// What opening a repository gives.
type Opening = Result<(Repository, SyncReport), repository::Error>;

/// Names of the configuration, in the order in which they are looked for.
fn config_places() -> Vec<PathBuf> {
    let mut places = vec![PathBuf::from("lifeboat.toml")];
    let home = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".config")));
    places.extend(home.map(|home| home.join("lifeboat/lifeboat.toml")));
    places.push(PathBuf::from("/etc/lifeboat/lifeboat.toml"));
    places
}

impl Context {
    /// Finds and reads the configuration.
    pub fn new(global: Global, stop: Arc<AtomicBool>) -> Result<Self, Failure> {
        let ui = Ui { json: global.json, quiet: global.quiet };
        let file = global.config.clone().or_else(|| config_places().into_iter().find(|place| place.is_file()));
        let config = file.as_deref().map(Config::read).transpose()?.unwrap_or_default();
        let as_of = global.as_of.as_deref().map(|text| read_time(text, chrono::Utc::now())).transpose()?;
        if let Some(at) = &as_of {
            ui.story(format!("The store as of {}", at.shown));
        }
        let as_of = as_of.map(|at| at.moment);
        let context = Self { global, config, config_file: file, ui, stop, at_copy: None, as_of, told: Arc::default() };
        // `--repo offsite`: a copy that the configuration names, with all that opens it.
        match context.global.repo.clone().filter(|repo| context.config.copy_named(repo).is_some()) {
            Some(repo) => {
                let mut there = context.elsewhere(&repo);
                there.global.catalog.clone_from(&context.global.catalog);
                Ok(there)
            }
            None => Ok(context),
        }
    }

    /// The surroundings of whoever has no configuration that can be read.
    pub fn without_configuration(global: Global, stop: Arc<AtomicBool>) -> Self {
        let ui = Ui { json: global.json, quiet: global.quiet };
        let (config, told) = (Config::default(), Arc::default());
        Self { global, config, config_file: None, ui, stop, at_copy: None, as_of: None, told }
    }

    /// The same surroundings for a second repository: a copy of the configuration by its name or URL, or another URL.
    pub fn elsewhere(&self, target: &str) -> Self {
        let named = self.config.copy_named(target);
        let config = named.map_or_else(|| self.config.at_url(target), |(_, section)| self.config.at_copy(section));
        let at_copy = named.map(|(name, _)| name.clone());
        // A process that this one starts opens the same.
        let repo = config.repository.url.clone();
        let global = Global { repo, catalog: None, ..self.global.clone() };
        Self {
            global,
            config,
            config_file: self.config_file.clone(),
            ui: self.ui,
            stop: Arc::clone(&self.stop),
            at_copy,
            as_of: self.as_of,
            told: Arc::clone(&self.told),
        }
    }

    /// The same for a thread of its own.
    pub fn twin(&self) -> Self {
        Self {
            global: self.global.clone(),
            config: self.config.clone(),
            config_file: self.config_file.clone(),
            ui: self.ui,
            stop: Arc::clone(&self.stop),
            at_copy: self.at_copy.clone(),
            as_of: self.as_of,
            told: Arc::clone(&self.told),
        }
    }

    /// Whether this works on the repository of the configuration, or there is none to tell it from.
    pub fn is_own(&self) -> bool {
        let same = |repo: &String| self.config.repository.url.as_ref().is_none_or(|own| same_place(own, repo));
        self.at_copy.is_none() && self.global.repo.as_ref().is_none_or(same)
    }

    /// The clock. Time enters here and nowhere below.
    pub fn now(&self) -> Moment {
        chrono::Utc::now()
    }

    /// The repository's URL.
    pub fn url(&self) -> Result<String, Failure> {
        self.url_or(None)
    }

    /// A URL that was given to the command itself, or the repository's.
    pub fn url_or(&self, given: Option<&str>) -> Result<String, Failure> {
        let named = given.map(str::to_owned).or_else(|| self.global.repo.clone());
        named.or_else(|| self.config.repository.url.clone()).ok_or_else(|| {
            Failure::usage(
                "no repository was given",
                "Name one with `--repo URL`, LIFEBOAT_REPOSITORY, or `url` under [repository] in `lifeboat.toml`.",
            )
        })
    }

    /// Opens the repository's store.
    pub fn store(&self, create: bool) -> Result<Store, Failure> {
        let credentials = Credentials { as_of: self.as_of, ..self.config.repository.credentials() };
        open_url(&self.url()?, &credentials, self.limits()?, create).map_err(|e| match e {
            store::Error::NotFound { store, .. } => repository::Error::NoRepository(store).into(),
            e => e.into(),
        })
    }

    /// Opens a store in which there need be no repository.
    pub fn store_at(&self, url: &str) -> Result<Store, Failure> {
        open_url(url, &self.config.repository.credentials(), self.limits()?, false).map_err(|e| match e {
            store::Error::NotFound { store, .. } => Failure::usage(
                format!("there is no directory `{store}`"),
                "Mount it, or make it with `mkdir -p`, and run this again.",
            ),
            e => e.into(),
        })
    }

    fn limits(&self) -> Result<Limits, Failure> {
        let section = &self.config.repository;
        let rate = |flag: &Option<String>, config: &Option<String>| {
            let text = flag.as_ref().or(config.as_ref());
            text.map(|text| parse_size(text)).transpose().map_err(|e| Failure::usage(e, "As in `--limit-upload 20M`."))
        };
        Ok(Limits {
            concurrency: section.concurrency,
            upload: rate(&self.global.limit_upload, &section.limit_upload)?,
            download: rate(&self.global.limit_download, &section.limit_download)?,
            look_first: section.conditional_puts == Some(false),
            ..Limits::default()
        })
    }

    /// The repository's directory, where it is one on this machine and there already.
    pub fn local_repository(&self) -> Result<Option<PathBuf>, Failure> {
        match parse_url(&self.url()?)? {
            Location::Local(path) => Ok(std::fs::canonicalize(path).ok()),
            _ => Ok(None),
        }
    }

    /// Where this host keeps its part. With `--as-of` one of that time: a catalog of today would miss what is newer, and nobody is a writer there.
    pub fn state_dir(&self) -> Result<PathBuf, Failure> {
        let own = self.own_state_dir()?;
        Ok(match self.as_of {
            Some(at) => own.join("as-of").join(at.timestamp().to_string()),
            None => own,
        })
    }

    /// The same, whatever `--as-of` says.
    pub fn own_state_dir(&self) -> Result<PathBuf, Failure> {
        if let Some(dir) = self.global.state_dir.clone().or_else(|| self.config.repository.state_dir.clone()) {
            return Ok(dir);
        }
        if let Some(state) = std::env::var_os("XDG_STATE_HOME").filter(|state| !state.is_empty()) {
            return Ok(Path::new(&state).join("lifeboat"));
        }
        if rustix::process::geteuid().is_root() {
            return Ok(PathBuf::from("/var/lib/lifeboat"));
        }
        match std::env::var_os("HOME").filter(|home| !home.is_empty()) {
            Some(home) => Ok(Path::new(&home).join(".local/state/lifeboat")),
            None => Err(Failure::usage("there is no HOME", "Say where to keep keys and catalogs: `--state-dir DIR`.")),
        }
    }

    /// Whether this user may write into the state directory without locking its owner out.
    pub fn refuse_others_state(&self) -> Result<(), Failure> {
        refuse_others_state(&self.state_dir()?)
    }

    /// The files with identities.
    pub fn identity_files(&self) -> Vec<PathBuf> {
        if self.global.identity.is_empty() {
            self.config.repository.identity_file.clone().into_iter().collect()
        } else {
            self.global.identity.clone()
        }
    }

    /// Recipients that were named, checked.
    pub fn recipients(&self) -> Result<Vec<Recipient>, Failure> {
        let named =
            if self.global.recipient.is_empty() { &self.config.repository.recipients } else { &self.global.recipient };
        let mut all: Vec<Recipient> = Vec::new();
        for (n, part) in named.iter().flat_map(|text| text.split(',').enumerate()) {
            // An SSH key's comment may hold a comma: what follows one is a key only if it begins like one.
            if n == 0 || ["age1", "ssh-"].iter().any(|start| part.trim().starts_with(start)) {
                all.push(part.parse()?);
            }
        }
        Ok(all)
    }

    /// Identities and pins at hand.
    pub fn keys(&self) -> Result<Keys, Failure> {
        let mut keys =
            Keys { fingerprints: self.config.repository.fingerprint.clone().into_iter().collect(), ..Keys::default() };
        let pinned_by_config = !keys.fingerprints.is_empty();
        for path in self.identity_files() {
            let file = std::fs::File::open(&path).map_err(|e| {
                Failure::new(
                    Kind::Key,
                    format!("could not read the identity file `{}`: {e}", path.display()),
                    Some("Point `--identity` at the file that holds the secret key.".to_owned()),
                )
            })?;
            let ring = Keyring::read(&path.display().to_string(), file, &mut ask_passphrase)?;
            keys.identities.extend(ring.identities);
            // One identity may read several repositories: the configuration's pin is the more exact one.
            if !pinned_by_config {
                keys.fingerprints.extend(ring.fingerprints);
            }
        }
        Ok(keys)
    }

    /// What to look at where a repository was and is not: the disk, for one in a directory.
    pub fn where_it_was(&self) -> Result<String, Failure> {
        Ok(match parse_url(&self.url()?)? {
            Location::Local(path) => {
                format!("Is the disk mounted? `findmnt --target '{}'` says which one it is.", path.display())
            }
            _ => "Check the URL: the bucket and the prefix.".to_owned(),
        })
    }

    /// Whether a repository was made or joined from here: the configuration pins one, or this host's keys are kept.
    fn knows_one(&self) -> bool {
        let keys = |dir: PathBuf| {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries.take(KNOWN_MAX).any(|entry| entry.path().join("writer.key").exists())
        };
        self.config.repository.fingerprint.is_some() || self.state_dir().is_ok_and(keys)
    }

    /// Where there was a repository, its absence is no reason to make one.
    fn absent(&self, failure: Failure) -> Failure {
        match failure.kind() {
            Kind::NoRepository if !failure.is_gone() && self.knows_one() => match self.where_it_was() {
                Ok(hint) => failure.with_hint(format!(
                    "This host knows a repository: check the URL before you make a new one. {hint}"
                )),
                Err(_) => failure,
            },
            _ => failure,
        }
    }

    /// Opens the repository, reads its logs, and tells what is wrong with them.
    pub fn open(&self, progress: &dyn Progress) -> Result<(Repository, Vec<Problem>), Failure> {
        let (repository, problems) = self.open_silently(progress)?;
        for problem in &problems {
            self.ui.warning(problem);
        }
        Ok((repository, problems))
    }

    /// The same without a word: for who looks again and again.
    pub fn open_silently(&self, progress: &dyn Progress) -> Result<(Repository, Vec<Problem>), Failure> {
        let opened = self.open_as(progress, true).and_then(|opening| Ok(opening?));
        let (repository, report) = opened.map_err(|failure| self.absent(failure))?;
        Ok((repository, report.problems))
    }

    /// Opens the repository without reading its logs: for what must answer within moments.
    pub fn open_unsynced(&self, progress: &dyn Progress) -> Result<(Repository, SyncReport), Failure> {
        self.open_as(progress, false).and_then(|opening| Ok(opening?)).map_err(|failure| self.absent(failure))
    }

    /// Opens the repository without reading its logs. A catalog that cannot be opened is deleted and made anew: for
    /// whoever rebuilds it anyway.
    pub fn open_anew(&self, progress: &dyn Progress) -> Result<Repository, Failure> {
        let broken = match self.open_as(progress, false)? {
            Ok((repository, _)) => return Ok(repository),
            Err(repository::Error::Catalog(e)) => e,
            Err(e) => return Err(e.into()),
        };
        let Some(path) = broken.path() else { return Err(broken.into()) };
        self.ui.warning(format!("{broken}; it is made anew"));
        for tail in ["", "-wal", "-shm"] {
            let mut file = path.as_os_str().to_owned();
            file.push(tail);
            let _ = std::fs::remove_file(file);
        }
        Ok(self.open_as(progress, false)??.0)
    }

    /// Opens the repository as the keeper of another writer.
    pub fn open_as_keeper(&self, writer: &str, progress: &dyn Progress) -> Result<(Repository, Vec<Problem>), Failure> {
        let (repository, report) = self.open_for(progress, true, Some(writer))??;
        for problem in &report.problems {
            self.ui.warning(format!("{writer}: {problem}"));
        }
        Ok((repository, report.problems))
    }

    fn open_as(&self, progress: &dyn Progress, sync: bool) -> Result<Opening, Failure> {
        self.open_for(progress, sync, None)
    }

    fn open_for(&self, progress: &dyn Progress, sync: bool, keeper_of: Option<&str>) -> Result<Opening, Failure> {
        let state = self.state_dir()?;
        // A catalog that is there keeps its owner: SQLite gives its journals to them. A new one would be root's.
        if self.global.catalog.is_none() && self.config.repository.catalog.is_none() && !has_catalog(&state) {
            refuse_others_state(&state)?;
        }
        let options = OpenOptions {
            state: &state,
            // One of today's would say what is newer, and learn what was not there yet.
            catalog: match self.as_of {
                Some(_) => None,
                None => self.global.catalog.clone().or_else(|| self.config.repository.catalog.clone()),
            },
            keys: self.keys()?,
            sync,
            keeper_of,
        };
        Ok(Repository::open(self.store(false)?, options, progress))
    }

    /// Progress for this command; `long` ones draw a bar.
    pub fn progress(&self, long: bool) -> Arc<Console> {
        Arc::new(Console::new(self.ui, Arc::clone(&self.stop), long))
    }

    /// Time, chance and name of the host, for a backup.
    pub fn world(&self) -> Result<World, Failure> {
        let mut random = [0; 10];
        getrandom::fill(&mut random)
            .map_err(|e| Failure::new(Kind::Failed, format!("the kernel gave no random numbers: {e}"), None))?;
        Ok(World { clock: Arc::new(chrono::Utc::now), random, host: host_name(None) })
    }

    /// Which snapshot was asked for, and how its time was read.
    pub fn wanted(&self, which: &Which) -> Result<(Wanted, Option<String>), Failure> {
        match (&which.to, &which.snapshot) {
            (_, Some(name)) => Ok((Wanted::Named(name.clone()), None)),
            (Some(text), None) if text.trim() == "latest" => Ok((Wanted::Latest, None)),
            (Some(text), None) => {
                let time = read_time(text, self.now())?;
                if time.moment > self.now() {
                    self.ui.warning(format!(
                        "{} has not come yet; the newest state that is there is what can be had",
                        time.shown
                    ));
                }
                Ok((Wanted::At(time.moment), Some(time.shown)))
            }
            (None, None) => Ok((Wanted::Latest, None)),
        }
    }
}

/// Whether a state directory has a catalog of any repository.
fn has_catalog(state: &Path) -> bool {
    let entries = std::fs::read_dir(state).into_iter().flatten().flatten();
    entries.take(KNOWN_MAX).any(|entry| entry.path().join("catalog.db").exists())
}

/// What root writes into another user's state directory that user can neither read nor write: its next `wal push` would fail, and the
/// server would keep its log until the disk is full.
fn refuse_others_state(state: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata(state).map(|meta| meta.uid()).unwrap_or(0);
    if owner == 0 || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::usage(
        format!("the state directory `{}` belongs to user {owner}, and this runs as root", state.display()),
        format!(
            "Run it as that user: `runuser -u \"$(id -un {owner})\" -- lifeboat ...`. To read or restore, an empty directory of root's own \
             does: `--state-dir DIR`. Nothing was touched."
        ),
    ))
}

/// This machine's name.
pub fn host_name(given: Option<&str>) -> String {
    match given {
        Some(name) => name.to_owned(),
        None => rustix::system::uname().nodename().to_string_lossy().into_owned(),
    }
}

/// Lets plugins of age speak to whoever runs this: "touch your key".
pub fn reach_person() {
    #[allow(clippy::print_stderr, reason = "a plugin's words, while a command waits for them")]
    fn tell(message: &str) {
        eprintln!("{message}");
    }
    crate::seal::set_person(tell, ask_passphrase);
}

/// A passphrase from LIFEBOAT_PASSPHRASE_FILE, or from the terminal.
fn ask_passphrase(what: &str) -> Result<SecretString, String> {
    if let Some(file) = std::env::var_os("LIFEBOAT_PASSPHRASE_FILE") {
        let text = std::fs::read_to_string(&file);
        let text = text.map_err(|e| format!("LIFEBOAT_PASSPHRASE_FILE `{}`: {e}", Path::new(&file).display()))?;
        return Ok(SecretString::from(text.trim_end_matches(['\r', '\n']).to_owned()));
    }
    let asked = rpassword::prompt_password(format!("{what}: "));
    asked.map(SecretString::from).map_err(|e| format!("none could be asked for: {e}"))
}
