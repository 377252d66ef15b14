use mcp_auth_oauth::Algorithm;

use super::super::stored;
use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const DAILY: Wanted = Wanted {
    kind: GeneratedKey::P256,
    rotate_after: Duration::from_secs(24 * 3600),
    created: None,
};

fn now() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().unwrap()
}

fn resource_ref(name: &str) -> ResourceRef {
    ResourceRef {
        namespace: "llm".into(),
        name: name.into(),
    }
}

fn wanting(names: &[&str], wanted: Wanted) -> BTreeMap<ResourceRef, Wanted> {
    names.iter().map(|name| (resource_ref(name), wanted)).collect()
}

/// Where the resources of all namespaces are known.
fn plan(stored: &KeySets, wanted: &BTreeMap<ResourceRef, Wanted>, at: Timestamp) -> Plan {
    super::plan(stored, wanted, |_| true, at)
}

/// What the one client has after `plan` at this time.
fn after(stored: &KeySets, wanted: Wanted, at: Timestamp) -> KeySets {
    let plan = plan(stored, &wanting(&["tools"], wanted), at);
    plan.changed.unwrap_or_else(|| stored.clone())
}

fn only(keys: &KeySets) -> &KeySet {
    keys.get(&resource_ref("tools")).unwrap()
}

fn ids(keys: &KeySet) -> Vec<String> {
    let published = keys.published();
    let ids = published
        .iter()
        .map(|jwk| jwk["kid"].as_str().unwrap().to_owned());
    ids.collect()
}

#[test]
fn every_key_is_published_long_before_it_signs_and_after_its_last_assertion() {
    let mut keys = after(&KeySets::new(), DAILY, now());
    let mut at = now();
    let mut published: Vec<(Timestamp, Vec<String>)> = vec![(at, ids(only(&keys)))];
    let mut signed: Vec<(Timestamp, String)> = vec![(at, only(&keys).current.id().to_owned())];
    for _ in 0..20 {
        at = plan(&keys, &wanting(&["tools"], DAILY), at).next_change.unwrap();
        keys = after(&keys, DAILY, at);
        published.push((at, ids(only(&keys))));
        signed.push((at, only(&keys).current.id().to_owned()));
    }
    let rotations: Vec<_> = signed.windows(2).filter(|pair| pair[0].1 != pair[1].1).collect();
    assert!(rotations.len() >= 8, "{}", rotations.len());
    for pair in rotations {
        let ((_, old), (rotated_at, new)) = (&pair[0], &pair[1]);
        let seen_from = published.iter().find(|(_, ids)| ids.contains(new)).unwrap().0;
        assert!(*rotated_at - HOUR >= seen_from, "{new} was new when it signed");
        for (at, ids) in &published {
            if at >= rotated_at && *at < *rotated_at + HOUR {
                assert!(ids.contains(old), "assertions by {old} were still good");
            }
        }
    }
    let (_, last) = published.last().unwrap();
    assert!(last.len() <= 3, "{last:?}");
}

#[test]
fn nothing_is_changed_before_its_time() {
    let keys = after(&KeySets::new(), DAILY, now());
    let plan = plan(&keys, &wanting(&["tools"], DAILY), now() + 23 * HOUR);
    assert!(plan.changed.is_none());
    assert_eq!(plan.next_change, Some(now() + FIRST_USE_DELAY + 24 * HOUR));
}

#[test]
fn a_shortened_period_rotates_at_once_to_the_key_that_is_published_already() {
    let keys = after(&KeySets::new(), DAILY, now());
    let hourly = Wanted {
        rotate_after: HOUR,
        ..DAILY
    };
    let rotated = after(&keys, hourly, now() + 2 * HOUR);
    assert_eq!(only(&rotated).current.id(), only(&keys).next.id());
}

#[test]
fn another_algorithm_waits_until_its_key_has_been_published() {
    let keys = after(&KeySets::new(), DAILY, now());
    let late = now() + 48 * HOUR;
    let edwards = Wanted {
        kind: GeneratedKey::Ed25519,
        ..DAILY
    };
    let changed = after(&keys, edwards, late);
    assert_eq!(only(&changed).current.id(), only(&keys).current.id());
    assert_eq!(only(&changed).next.key.algorithm(), Algorithm::EdDsa);
    let rotated = after(&changed, edwards, late + MIN_PUBLISHED);
    assert_eq!(only(&rotated).current.key.algorithm(), Algorithm::EdDsa);
}

#[test]
fn keys_of_resources_that_are_gone_are_removed_and_others_stay() {
    let both = plan(&KeySets::new(), &wanting(&["tools", "other"], DAILY), now());
    let both = both.changed.unwrap();
    let one = after(&both, DAILY, now());
    assert_eq!(one.len(), 1);
    assert!(only(&one) == only(&both));
}

#[test]
fn keys_are_kept_while_it_is_not_known_whether_their_resource_is_gone() {
    let keys = after(&KeySets::new(), DAILY, now());
    let blind = super::plan(&keys, &BTreeMap::new(), |_| false, now());
    assert!(blind.changed.is_none());
    let seeing = super::plan(&keys, &BTreeMap::new(), |_| true, now());
    assert!(seeing.changed.unwrap().is_empty());
}

#[test]
fn a_full_secret_refuses_the_youngest_and_those_that_have_keys_go_on() {
    let one = after(&KeySets::new(), DAILY, now());
    let full: KeySets = (0..700)
        .map(|number| (resource_ref(&format!("kept{number}")), only(&one).clone()))
        .collect();
    let kept = full.keys().map(|resource_ref| (resource_ref.clone(), DAILY));
    let mut wanted: BTreeMap<_, _> = kept.collect();
    // Older than those that have keys, and the younger the smaller the name.
    for number in 0..200_u32 {
        let created = Some(now() - number * HOUR);
        wanted.insert(
            resource_ref(&format!("new{number:03}")),
            Wanted {
                kind: GeneratedKey::Ed25519,
                created,
                ..DAILY
            },
        );
    }
    let plan = plan(&full, &wanted, now());
    let keys = plan.changed.unwrap();
    assert!(full.iter().all(|(resource_ref, own)| keys[resource_ref] == *own));
    let made: Vec<_> = (0..200)
        .map(|number| keys.contains_key(&resource_ref(&format!("new{number:03}"))))
        .collect();
    assert!(made.is_sorted() && !made[0] && made[199], "{made:?}");
    assert_eq!(keys.len() + plan.refused.len(), wanted.len());
    assert!(plan.refused.contains(&resource_ref("new000")));

    let again = super::plan(&keys, &wanted, |_| true, now());
    assert!(again.changed.is_none());
    assert_eq!(again.refused, plan.refused);
    wanted.remove(&resource_ref("kept0"));
    let room = super::plan(&keys, &wanted, |_| true, now());
    assert_eq!(room.refused.len() + 1, plan.refused.len());
}

#[test]
fn what_a_secret_is_filled_with_has_room_after_any_rotation() {
    for kind in GeneratedKey::ALL {
        let hourly = Wanted {
            kind,
            rotate_after: HOUR,
            ..DAILY
        };
        let mut keys = after(&KeySets::new(), hourly, now());
        for hour in 1..6_u32 {
            keys = after(&keys, hourly, now() + hour * HOUR + FIRST_USE_DELAY);
            let bytes = stored::data(&keys)[stored::DATA_KEY].0.len();
            assert_eq!(only(&keys).retired.len(), 1);
            let room = name_bytes(&resource_ref("tools")) + max_bytes(kind);
            assert!(bytes <= room, "{kind:?}: {bytes}");
        }
    }
}

#[test]
fn a_change_to_rsa_waits_for_room_and_the_keys_that_are_there_go_on() {
    let one = after(&KeySets::new(), DAILY, now());
    let count = MAX_BYTES / (name_bytes(&resource_ref("kept000")) + MAX_KEY_SET_BYTES);
    let full: KeySets = (0..count)
        .map(|number| (resource_ref(&format!("kept{number:03}")), only(&one).clone()))
        .collect();
    let kept = full.keys().map(|resource_ref| (resource_ref.clone(), DAILY));
    let mut wanted: BTreeMap<_, _> = kept.collect();
    let changing = resource_ref("kept000");
    let rsa = Wanted {
        kind: GeneratedKey::Rsa,
        ..DAILY
    };
    wanted.insert(changing.clone(), rsa);
    let waiting = plan(&full, &wanted, now());
    assert!(waiting.changed.is_none() && waiting.refused.is_empty());
    for gone in ["kept001", "kept002", "kept003"] {
        wanted.remove(&resource_ref(gone));
    }
    let keys = plan(&full, &wanted, now()).changed.unwrap();
    assert!(keys[&changing].next.is_of(GeneratedKey::Rsa));
    assert_eq!(keys[&changing].current.id(), full[&changing].current.id());
}

#[test]
fn a_clock_that_was_set_back_makes_no_new_key() {
    let keys = after(&KeySets::new(), DAILY, now());
    let earlier = plan(&keys, &wanting(&["tools"], DAILY), now() - 48 * HOUR);
    assert!(earlier.changed.is_none());
}
