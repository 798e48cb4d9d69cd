#![cfg(all(target_os = "linux", not(tfo_fallback)))]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};

use socket2::{Domain, Type};
use tfo_core::sockopt;

use super::*;

const ONE: &str = "00000001-11111111-11111111-11111111";
const TWO: &str = "00000002-22222222-22222222-22222222";
const THREE: &str = "00000003-33333333-33333333-33333333";

fn socket() -> Socket {
    Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()
}

/// The first byte of the keys that the kernel has.
fn held(socket: &Socket) -> Option<(u8, Option<u8>)> {
    let first = |key: &CookieKey| key.as_bytes()[0];
    let keys = sockopt::fastopen_key(socket).unwrap();
    keys.map(|(primary, backup)| (first(&primary), backup.as_ref().map(first)))
}

fn events(keys: &Keys) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let sender = Mutex::new(sender);
    keys.on_event(move |event| {
        let _ = sender.lock().unwrap().send(event.to_string());
    });
    receiver
}

fn told(events: &Receiver<String>) -> Vec<String> {
    events.try_iter().collect()
}

/// Looks as often as a change needs.
fn look(keys: &Keys) {
    keys.look();
    keys.look();
}

#[test]
fn the_system_keeps_its_own() {
    let (keys, socket) = (Keys::default(), socket());
    let _registration = keys.add(&socket).unwrap();
    keys.rotate().unwrap();
    keys.reload().unwrap();
    assert_eq!(held(&socket), None);
    assert!(keys.is_system() && keys.status().primary.is_none() && keys.status().listeners == 0);
}

#[test]
fn fixed_keys_are_set_on_every_listener() {
    let keys = Keys::fixed(&format!("{ONE},{TWO}")).unwrap();
    let sockets = [socket(), socket()];
    let registrations = sockets.each_ref().map(|socket| keys.add(socket).unwrap());
    assert_eq!(sockets.each_ref().map(held), [Some((1, Some(2))); 2]);
    assert_eq!(keys.status().listeners, 2);
    assert_eq!(
        keys.status().primary,
        Some(KeyId::of(&sockopt::fastopen_key(&sockets[0]).unwrap().unwrap().0))
    );
    drop(registrations);
    assert_eq!(keys.status().listeners, 0);
    assert_eq!(Keys::fixed("one").unwrap_err().kind(), KeyErrorKind::Malformed);
}

#[test]
fn a_registration_closes_with_its_listener() {
    let keys = Keys::fixed(ONE).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let registration = keys.add(&listener).unwrap();
    drop(listener);
    assert!(std::net::TcpStream::connect(address).is_ok(), "the second descriptor still listens");
    drop(registration);
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn derived_keys_follow_the_clock_wherever_it_goes() {
    let clock = Arc::new(Mutex::new(SystemTime::UNIX_EPOCH));
    let hands = Arc::clone(&clock);
    let rotation = Rotation::new(Duration::from_secs(100), Duration::from_secs(10)).unwrap();
    let schedule = Schedule::new(&[7; 32], rotation).unwrap();
    let keys = Keys::derived(schedule.clone()).with_clock(move || *hands.lock().unwrap());
    let (socket, other) = (socket(), socket());
    let _registration = keys.add(&socket).unwrap();
    let events = events(&keys);
    for seconds in [1_000, 1_089, 1_090, 1_100, 1_101, 5_000, 1_095, 0, 95, 1 << 40] {
        *clock.lock().unwrap() = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let slots = schedule.slots(*clock.lock().unwrap());
        let before = keys.status();
        keys.rotate().unwrap();
        let (primary, backup) = sockopt::fastopen_key(&socket).unwrap().unwrap();
        assert_eq!((&primary, backup.as_ref()), (slots.primary(), slots.backup()), "{seconds}");
        assert_eq!((keys.status().primary, keys.status().backup), (Some(slots.ids().0), slots.ids().1));
        let changed = before.primary != keys.status().primary || before.backup != keys.status().backup;
        assert_eq!(told(&events).len(), usize::from(changed), "{seconds}");
        assert_eq!(keys.status().valid_until, slots.valid_until());
        assert!(keys.turn() <= NAP);
    }
    // One that comes later gets the same; the first to come again gets what is due.
    let later = keys.add(&other).unwrap();
    assert_eq!(held(&other), held(&socket));
    drop((later, _registration));
    *clock.lock().unwrap() = SystemTime::UNIX_EPOCH;
    let _again = keys.add(&other).unwrap();
    assert_eq!(
        sockopt::fastopen_key(&other).unwrap().unwrap().0,
        *schedule.slots(SystemTime::UNIX_EPOCH).primary()
    );
}

#[test]
fn the_next_look_is_when_the_keys_change_but_within_a_minute() {
    let rotation = Rotation::new(Duration::from_secs(1_000), Duration::from_secs(30)).unwrap();
    let at = |seconds: f64| {
        let keys = Keys::derived(Schedule::new(&[7; 32], rotation).unwrap());
        keys.with_clock(move || SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)).turn()
    };
    assert_eq!(at(0.0), NAP);
    assert_eq!(at(960.0), Duration::from_secs(10));
    assert_eq!(at(970.0), Duration::from_secs(30));
    assert_eq!(at(999.9999), Duration::from_millis(1), "no spinning");
    assert_eq!(Keys::fixed(ONE).unwrap().turn(), NAP);
}

#[test]
fn one_key_in_a_file_keeps_the_one_before_and_two_are_exactly_those() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    fs::write(&path, ONE).unwrap();
    let (keys, socket) = (Keys::file(&path).unwrap(), socket());
    let _registration = keys.add(&socket).unwrap();
    assert_eq!(held(&socket), Some((1, None)));
    let steps: [(&str, (u8, Option<u8>)); 7] = [
        (TWO, (2, Some(1))),
        (THREE, (3, Some(2))),
        (&format!("{THREE}\n"), (3, Some(2))), // said again
        (&format!("{THREE},{ONE}"), (3, Some(1))),
        (THREE, (3, None)), // the end of a change by hand
        (&format!("{TWO},{ONE}"), (2, Some(1))),
        (ONE, (1, Some(2))),
    ];
    for (text, wanted) in steps {
        fs::write(&path, text).unwrap();
        look(&keys);
        assert_eq!(held(&socket), Some(wanted), "{text}");
        keys.reload().unwrap();
        keys.rotate().unwrap();
        assert_eq!(held(&socket), Some(wanted), "{text} again");
    }
}

#[test]
fn a_bad_file_leaves_the_keys_in_force_and_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    fs::write(&path, format!("{ONE},{TWO}")).unwrap();
    let (keys, socket) = (Keys::file(&path).unwrap(), socket());
    let _registration = keys.add(&socket).unwrap();
    let events = events(&keys);
    let spoilers: [(&str, &dyn Fn()); 5] = [
        ("no cookie key", &|| fs::write(&path, "secret-key-material").unwrap()),
        ("no cookie key", &|| fs::write(&path, &ONE[..20]).unwrap()),
        ("zeros", &|| fs::write(&path, ONE.replace('1', "0")).unwrap()),
        ("cannot be read", &|| fs::remove_file(&path).unwrap()),
        ("no regular file", &|| fs::create_dir(&path).unwrap()),
    ];
    for (wanted, spoil) in spoilers {
        spoil();
        (0..4).for_each(|_| look(&keys));
        let told = told(&events);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].contains(wanted) && told[0].contains("stay") && told[0].contains("keys:"),
            "{told:?}"
        );
        assert!(!told[0].contains("secret-key-material") && !told[0].contains("11111111"), "{told:?}");
        assert!(keys.status().failing);
        assert_eq!(keys.reload().unwrap_err().path(), Some(path.as_path()), "asked, it answers again");
        assert_eq!(self::told(&events).len(), 1);
        keys.rotate().unwrap();
        assert!(keys.status().failing, "that the clock was looked at does not mend the file");
        assert_eq!(held(&socket), Some((1, Some(2))));
    }
    fs::remove_dir(&path).unwrap();
    fs::write(&path, THREE).unwrap();
    look(&keys);
    assert_eq!(held(&socket), Some((3, Some(1))));
    assert!(!keys.status().failing);
}

#[test]
fn a_bad_file_at_the_start_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    let kind = || Keys::file(&path).unwrap_err().kind();
    assert_eq!(kind(), KeyErrorKind::Unreadable);
    fs::write(&path, "").unwrap();
    assert_eq!(kind(), KeyErrorKind::Malformed);
    let error = Keys::file(&path).unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::InvalidInput);
    fs::write(&path, "x".repeat(31)).unwrap();
    let error = Keys::derived_file(&path, Rotation::default()).unwrap_err();
    assert_eq!(error.kind(), KeyErrorKind::ShortSecret);
}

/// As Kubernetes does it: `keys` → `..data/keys`, `..data` → a directory, and `..data` is replaced.
#[test]
fn a_mounted_secret_is_followed_through_its_symlinks() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let publish = |version: &str, text: &str| {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("keys"), text).unwrap();
        symlink(version, at("..tmp")).unwrap();
        fs::rename(at("..tmp"), at("..data")).unwrap();
    };
    publish("..1", ONE);
    symlink("..data/keys", at("keys")).unwrap();
    let (keys, socket) = (Keys::file(at("keys")).unwrap(), socket());
    let _registration = keys.add(&socket).unwrap();
    let events = events(&keys);
    for (version, text, wanted) in [("..2", TWO, (2, Some(1))), ("..3", THREE, (3, Some(2)))] {
        publish(version, text);
        look(&keys);
        assert_eq!(held(&socket), Some(wanted));
        assert_eq!(told(&events).len(), 1);
    }
}

#[test]
fn a_file_that_may_not_be_read_is_an_error_and_later_none() {
    // Root may read everything.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    fs::write(&path, ONE).unwrap();
    let keys = Keys::file(&path).unwrap();
    forbid(&path);
    if fs::read(&path).is_ok() {
        return;
    }
    assert_eq!(
        Keys::file(&path).unwrap_err().io_error().unwrap().kind(),
        std::io::ErrorKind::PermissionDenied
    );
    keys.reload().unwrap_err();
    assert!(keys.status().failing);
}

fn forbid(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
}

#[test]
fn a_new_secret_is_a_change_without_a_gap_here() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    fs::write(&path, [b'a'; 32]).unwrap();
    let (keys, socket) = (Keys::derived_file(&path, Rotation::default()).unwrap(), socket());
    let _registration = keys.add(&socket).unwrap();
    let before = keys.status().primary;
    fs::write(&path, [b'a'; 33]).unwrap();
    keys.reload().unwrap();
    assert_ne!(keys.status().primary, before);
    fs::write(&path, format!("{}\n", "a".repeat(32))).unwrap();
    keys.reload().unwrap();
    assert_eq!(keys.status().primary, before, "the newline is not part of it");
}

#[test]
fn nothing_tells_a_key() {
    let secret = *b"a secret that is known to nobody";
    let key = [0xA5_u8; 16];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    fs::write(&path, ONE).unwrap();
    let schedule = Schedule::new(&secret, Rotation::default()).unwrap();
    let slots = schedule.slots(SystemTime::now());
    let fixed = Keys::from_keys(CookieKey::from_bytes(key), None);
    let derived = Keys::derived(schedule.clone());
    let file = Keys::file(&path).unwrap();
    let socket = socket();
    let registrations = [&fixed, &derived, &file].map(|keys| keys.add(&socket).unwrap());
    let builder = crate::TfoListener::builder().keys(fixed.clone());
    let text = format!(
        "{schedule:?} {slots:?} {fixed:?} {derived:?} {file:?} {registrations:?} {builder:?} {:?} {:?}",
        fixed.status(),
        slots.primary()
    );
    let bytes = slots.primary().as_bytes();
    let forms = [
        "a secret".to_owned(),
        "11111111".to_owned(),
        "a5a5".to_owned(),
        "165, 165".to_owned(),
        format!("{:02x}{:02x}{:02x}", bytes[0], bytes[1], bytes[2]),
        format!("{}, {}, {}", bytes[0], bytes[1], bytes[2]),
    ];
    for form in forms {
        assert!(!text.to_lowercase().contains(&form), "{form}: {text}");
    }
    assert!(text.contains(&slots.ids().0.to_string()), "the id is there: {text}");
}

#[test]
fn a_handler_may_ask_and_change() {
    let keys = Keys::fixed(ONE).unwrap();
    let (asked, called) = (keys.clone(), Arc::new(Mutex::new(None)));
    let calls = Arc::clone(&called);
    keys.on_event(move |_| {
        asked.reload().unwrap();
        *calls.lock().unwrap() = Some(asked.status());
    });
    let _registration = keys.add(&socket()).unwrap();
    assert!(called.lock().unwrap().is_some());
}

#[test]
fn what_the_system_refuses_is_an_error() {
    let (pair, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let error = Keys::fixed(ONE).unwrap().add(&pair).unwrap_err();
    assert_eq!(error.kind(), KeyErrorKind::Refused);
    assert!(error.io_error().is_some());
}

#[tokio::test]
async fn a_task_changes_them_in_time_and_sees_a_file_change() {
    let rotation = Rotation::new(Duration::from_secs(1), Duration::from_millis(300)).unwrap();
    let schedule = Schedule::new(&[7; 32], rotation).unwrap();
    let (keys, socket) = (Keys::derived(schedule.clone()), socket());
    let _registration = keys.add(&socket).unwrap();
    let task = tokio::spawn(keys.clone().run());
    let before = keys.status();
    for _ in 0..20 {
        sleep(Duration::from_millis(100)).await;
        let now = SystemTime::now();
        let [early, late] = [now - Duration::from_millis(90), now].map(|now| schedule.slots(now).ids());
        let in_force = (keys.status().primary.unwrap(), keys.status().backup);
        assert!(in_force == early || in_force == late, "{in_force:?}, not {early:?} or {late:?}");
    }
    assert!(keys.status().changes >= before.changes + 3, "{:?}", keys.status());
    task.abort();

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    fs::write(&path, ONE).unwrap();
    let keys = Keys::file(&path).unwrap();
    let _registration = keys.add(&socket).unwrap();
    let task = tokio::spawn(keys.clone().run());
    sleep(Duration::from_millis(100)).await;
    fs::write(&path, TWO).unwrap();
    sleep(LOOK + 3 * SETTLE).await;
    assert_eq!(held(&socket), Some((2, Some(1))));
    task.abort();
}
