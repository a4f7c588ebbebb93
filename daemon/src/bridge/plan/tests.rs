use super::*;

const DOCKER_20: ApiVersion = ApiVersion(1, 41);

fn place(api: ApiVersion) -> Place {
    let net = |text: &str| text.parse().expect("a range");
    let place = Place::of(net("10.210.0.0/16"), net("10.210.7.0/24"), "kith0").expect("a server's range");
    Place { mtu: Some(1420), api: Some(api), ..place }
}

/// Rules as Docker leaves them: its own chain, and a policy that drops.
fn docker_rules() -> Rules {
    let mut rules = Rules::default();
    for (table, chain) in [(Table::Filter, "FORWARD"), (Table::Filter, DOCKER_USER), (Table::Nat, "POSTROUTING")] {
        rules.chains.insert((table, chain.to_owned()));
    }
    rules.policies.insert((Table::Filter, "FORWARD".to_owned()), "DROP".to_owned());
    rules
}

/// All is as it is to be.
fn settled(api: ApiVersion) -> Observed {
    let place = place(api);
    let network = Found { id: "n1".to_owned(), network: place.network(), attached: Vec::new() };
    let rules = Rules { ours: place.rules().into(), ..docker_rules() };
    Observed { place: Some(place), network: Some(network), rules: Ok(rules) }
}

fn changed(observed: &Observed, change: impl FnOnce(&mut Found)) -> Observed {
    let mut observed = observed.clone();
    change(observed.network.as_mut().expect("it is there"));
    observed
}

fn planned(observed: &Observed) -> String {
    let lines: Vec<String> = plan(observed).iter().map(ToString::to_string).collect();
    lines.join("\n")
}

fn told(observed: &Observed) -> String {
    faults(observed).join("\n")
}

#[test]
fn on_a_fresh_host_all_is_made_and_then_nothing_is_left_to_do() {
    let fresh = Observed { network: None, rules: Ok(docker_rules()), ..settled(DOCKER_20) };
    insta::assert_snapshot!(planned(&fresh), @r"
    create network kith: bridge, 10.210.135.0/24, gateway 10.210.135.1, com.docker.network.bridge.enable_ip_masquerade=false, com.docker.network.bridge.name=kith-br, com.docker.network.driver.mtu=1420
    insert rule filter DOCKER-USER -s 10.210.0.0/16 -d 10.210.135.0/24 -i kith0 -o kith-br -m comment --comment kith -j ACCEPT
    insert rule filter DOCKER-USER -s 10.210.135.0/24 -d 10.210.0.0/16 -i kith-br -o kith0 -m comment --comment kith -j ACCEPT
    insert rule nat POSTROUTING -s 10.210.135.0/24 ! -d 10.210.0.0/16 -m comment --comment kith -j MASQUERADE
    ");
    for api in [DOCKER_20, FENCED, TRUSTS] {
        assert_eq!((planned(&settled(api)).as_str(), told(&settled(api)).as_str()), ("", ""));
    }
}

#[test]
fn a_docker_that_fences_containers_is_told_to_let_the_tunnel_in() {
    let option = |api| {
        let options = place(api).network().options;
        options.into_iter().filter(|(name, _)| name.contains("trusted") || name.contains("gateway")).collect::<Vec<_>>()
    };
    let named = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    assert_eq!(option(ApiVersion(1, 47)), []);
    assert_eq!(option(FENCED), named(OPTION_GATEWAY, "nat-unprotected"));
    assert_eq!(option(ApiVersion(1, 49)), named(OPTION_GATEWAY, "nat-unprotected"));
    assert_eq!(option(TRUSTS), named(OPTION_TRUSTED, "kith0"));
    assert_eq!(option(ApiVersion(2, 0)), named(OPTION_TRUSTED, "kith0"));
}

#[test]
fn a_wrong_network_is_made_anew_if_nothing_is_in_it_and_else_reported() {
    let wrong = changed(&settled(TRUSTS), |found| {
        found.network.options.remove(OPTION_TRUSTED);
        found.network.options.insert(OPTION_MTU.to_owned(), "1500".to_owned());
        found.network.range = Some(("172.18.0.0/16".parse().expect("a range"), Ipv4Addr::new(172, 18, 0, 1)));
    });
    insta::assert_snapshot!(planned(&wrong), @r"
    remove network kith: its range is 172.18.0.0/16 with gateway 172.18.0.1, not 10.210.135.0/24 with gateway 10.210.135.1; com.docker.network.bridge.trusted_host_interfaces is not set, not kith0; com.docker.network.driver.mtu is 1500, not 1420
    create network kith: bridge, 10.210.135.0/24, gateway 10.210.135.1, com.docker.network.bridge.enable_ip_masquerade=false, com.docker.network.bridge.name=kith-br, com.docker.network.bridge.trusted_host_interfaces=kith0, com.docker.network.driver.mtu=1420
    ");
    assert_eq!(told(&wrong), "");
    let inhabited = changed(&wrong, |found| found.attached = vec!["api-1".to_owned(), "api-2".to_owned()]);
    assert_eq!(planned(&inhabited), "");
    insta::assert_snapshot!(told(&inhabited), @r"
    the Docker network kith cannot be mended while containers are in it (api-1 and 1 more): its range is 172.18.0.0/16 with gateway 172.18.0.1, not 10.210.135.0/24 with gateway 10.210.135.1
    the Docker network kith cannot be mended while containers are in it (api-1 and 1 more): com.docker.network.bridge.trusted_host_interfaces is not set, not kith0
    the Docker network kith cannot be mended while containers are in it (api-1 and 1 more): com.docker.network.driver.mtu is 1500, not 1420
    ");
}

#[test]
fn an_mtu_that_fits_and_options_of_others_are_left_as_they_are() {
    let with_mtu = |mtu: Option<&str>| {
        changed(&settled(DOCKER_20), |found| {
            found.network.options.insert("com.example.colour".to_owned(), "blue".to_owned());
            match mtu {
                Some(mtu) => found.network.options.insert(OPTION_MTU.to_owned(), mtu.to_owned()),
                None => found.network.options.remove(OPTION_MTU),
            };
        })
    };
    assert_eq!(planned(&with_mtu(Some("1280"))), "");
    for wrong in [Some("1421"), Some("many"), Some("0"), None] {
        assert!(planned(&with_mtu(wrong)).starts_with("remove"), "{wrong:?}");
    }
    // Without a tunnel there is nothing to compare it with.
    let mut early = with_mtu(Some("1500"));
    early.place.as_mut().expect("a place").mtu = None;
    assert_eq!(planned(&early), "");
}

#[test]
fn rules_of_an_earlier_place_and_doubles_go_and_what_is_missing_comes() {
    let mut observed = settled(DOCKER_20);
    let rules = observed.rules.as_mut().expect("rules");
    let [inward, _, abroad] = place(DOCKER_20).rules();
    let earlier = Rule::ours(Table::Nat, "POSTROUTING", "-s 10.210.134.0/24 ! -d 10.210.0.0/16", "MASQUERADE");
    rules.ours = vec![earlier, inward.clone(), inward, abroad];
    insta::assert_snapshot!(planned(&observed), @r"
    delete rule nat POSTROUTING -s 10.210.134.0/24 ! -d 10.210.0.0/16 -m comment --comment kith -j MASQUERADE
    delete rule filter DOCKER-USER -s 10.210.0.0/16 -d 10.210.135.0/24 -i kith0 -o kith-br -m comment --comment kith -j ACCEPT
    insert rule filter DOCKER-USER -s 10.210.135.0/24 -d 10.210.0.0/16 -i kith-br -o kith0 -m comment --comment kith -j ACCEPT
    ");
}

#[test]
fn a_docker_without_its_chain_gets_no_rule_there_and_is_reported_if_packets_are_dropped() {
    let mut observed = settled(DOCKER_20);
    let rules = observed.rules.as_mut().expect("rules");
    rules.chains.remove(&(Table::Filter, DOCKER_USER.to_owned()));
    rules.ours.retain(|rule| rule.table == Table::Nat);
    assert_eq!(planned(&observed), "");
    insta::assert_snapshot!(told(&observed), @"FORWARD drops, and there is no chain DOCKER-USER: containers elsewhere do not reach those here");
    observed.rules.as_mut().expect("rules").policies.clear();
    assert_eq!(told(&observed), "");
}

#[test]
fn a_firewall_that_cannot_be_read_is_reported_and_the_network_is_made_all_the_same() {
    let observed = Observed { network: None, rules: Err("iptables cannot be run".to_owned()), ..settled(DOCKER_20) };
    assert!(planned(&observed).starts_with("create network kith") && plan(&observed).len() == 1);
    insta::assert_snapshot!(told(&observed), @"the firewall is left as it is: iptables cannot be run");
}

#[test]
fn a_server_without_a_range_does_nothing() {
    let observed = Observed { place: None, network: None, rules: Ok(docker_rules()) };
    assert_eq!((planned(&observed).as_str(), told(&observed).as_str()), ("", ""));
    let net = |text: &str| text.parse().expect("a range");
    for own in ["10.211.7.0/24", "10.210.200.0/24", "10.210.0.0/16"] {
        assert_eq!(Place::of(net("10.210.0.0/16"), net(own), "kith0"), None, "{own}");
    }
}
