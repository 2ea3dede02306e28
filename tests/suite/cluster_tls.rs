//! Sessions with a server that speaks TLS alone: what each `sslmode` accepts, and what it refuses.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::common::scene::{ORACLE, Scene};
use crate::common::tls;

/// Two authorities, and a certificate of the first one for the server `db.test`, which gets it.
fn make_certificates(scene: &Scene) {
    let (here, data) = (scene.folder.path(), scene.cluster.data_dir());
    for name in ["ca", "other"] {
        tls::authority(here, name);
        // The server's user reads it.
        fs::set_permissions(here.join(format!("{name}.crt")), fs::Permissions::from_mode(0o644)).unwrap();
    }
    tls::server(here, "ca", "db.test");
    for name in ["server.crt", "server.key"] {
        fs::copy(here.join(name), data.join(name)).unwrap();
        fs::set_permissions(data.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        if let Some((uid, gid)) = crate::common::postgres::server_user() {
            std::os::unix::fs::chown(data.join(name), Some(uid), Some(gid)).unwrap();
        }
    }
}

#[test]
fn each_sslmode_accepts_what_libpq_accepts() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(&format!("{ORACLE}; ALTER ROLE lifeboat REPLICATION"));
    make_certificates(&scene);
    // An address of its own: other clusters of the tests listen on the same port.
    let pid = std::process::id();
    let address = format!("127.{}.{}.{}", 1 + pid % 200, 1 + pid / 200 % 200, 77);
    scene.cluster.configure(&[("listen_addresses", &address), ("ssl", "on")]);
    scene.cluster.set_hba("local all all trust\nhostssl all,replication all 127.0.0.0/8 trust\n");
    scene.cluster.restart();
    let run = |code: i32, keys: &str, more: &str| {
        let config = format!(
            "[sources.db]\nkind = \"postgres\"\nconnection = \"port=5432 user=lifeboat dbname=postgres {keys}\"\n\
             bin_dir = \"{}\"\n{more}",
            scene.cluster.bin_dir().display()
        );
        fs::write(scene.path("lifeboat.toml"), config).unwrap();
        scene.expect(code, &["backup", "db"])
    };
    let by_address = format!("host={address}");
    let by_name = format!("host=db.test hostaddr={address}");
    let roots = |name: &str| format!("sslrootcert={}", scene.path(name).display());
    for (code, keys, says) in [
        (1, format!("{by_address} sslmode=disable"), "no encryption"),
        (0, by_address.clone(), ""),
        (0, format!("hostaddr={address} sslmode=require"), ""),
        (1, format!("{by_address} sslmode=require {}", roots("other.crt")), "certificate"),
        (1, format!("{by_address} sslmode=verify-ca"), "no roots to check it by"),
        (1, format!("{by_address} sslmode=verify-ca {}", roots("other.crt")), "certificate"),
        (0, format!("{by_address} sslmode=verify-ca {}", roots("ca.crt")), ""),
        (1, format!("{by_address} sslmode=verify-full {}", roots("ca.crt")), "not valid for name"),
        (0, format!("{by_name} sslmode=verify-full {}", roots("ca.crt")), ""),
        // Pinned: the server's own certificate is the root.
        (0, format!("{by_name} sslmode=verify-full {}", roots("server.crt")), ""),
        (1, format!("{by_address} sslmode=sometimes"), "none of libpq's"),
    ] {
        let said = run(code, &keys, "");
        assert!(said.contains(says), "{keys}: {said}");
    }
    let used = scene.cluster.psql("SELECT count(*) FROM pg_stat_ssl WHERE ssl");
    assert_eq!(used, "0", "no session is left open");
    run(0, &format!("{by_name} sslmode=verify-full {}", roots("ca.crt")), "via = \"replication\"\n");
}
