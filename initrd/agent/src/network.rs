//! The pod's network: loopback always, and what the host describes.

use crate::failure::{Failure, Kind, Outcome, While};
use crate::netlink::{FLAG_CREATE_NEW, Message, Netlink, attributes};
use crate::protocol::spec::{Interface, Network, Route};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;
use rustix::io::Errno;

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;

const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const ADDRESS_ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
const ADDRESS_FLAGS: u16 = 8;
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_OUT: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;

const LOOPBACK_INDEX: i32 = 1;
const UP: u32 = 1;
const HARDWARE_ETHERNET: u16 = 1;
const FAMILY_INET: u8 = 2;
const FAMILY_INET6: u8 = 10;
/// The address is ours for certain: no duplicate detection, which would delay its use.
const NO_DUPLICATE_DETECTION: u32 = 2;
/// The address's network is reached by routes of its own, not by being on the link.
const NO_PREFIX_ROUTE: u32 = 0x200;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_BOOT: u8 = 3;
const SCOPE_LINK: u8 = 253;
const TYPE_UNICAST: u8 = 1;
/// Longest interface name with its zero byte.
const NAME_BYTES: usize = 16;

/// An Ethernet interface of the guest.
#[derive(Debug)]
struct Link {
    index: i32,
    mac: Vec<u8>,
    is_taken: bool,
}

fn failed(message: impl Into<String>) -> Failure {
    Failure::new(Kind::NetworkFailed, message)
}

/// Six bytes written as `02:…`.
fn parse_mac(text: &str) -> Outcome<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let is_hexadecimal = |part: &&str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
        let part = parts.next().filter(|part| part.len() == 2).filter(is_hexadecimal);
        *byte = part
            .and_then(|part| u8::from_str_radix(part, 16).ok())
            .ok_or_else(|| failed(format!("{text:?} is not a MAC address")))?;
    }
    if parts.next().is_some() {
        return Err(failed(format!("{text:?} is not a MAC address")));
    }
    Ok(mac)
}

/// An address with the length of its network's prefix.
fn parse_network(text: &str) -> Outcome<(IpAddr, u8)> {
    let parse = || {
        let (address, prefix) = text.split_once('/')?;
        let (address, prefix): (IpAddr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
        (prefix <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, prefix))
    };
    parse().ok_or_else(|| failed(format!("{text:?} is not an address with a prefix length")))
}

fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn family(address: &IpAddr) -> u8 {
    if address.is_ipv4() { FAMILY_INET } else { FAMILY_INET6 }
}

fn link_message(kind: u16, index: i32, flags: u32) -> Message {
    Message::new(kind, 0)
        .push(&[0; 4])
        .push(&index.to_ne_bytes())
        .push(&flags.to_ne_bytes())
        .push(&flags.to_ne_bytes())
}

/// Brings up loopback and, if there is one, the pod's network.
pub fn set_up(network: Option<&Network>) -> Outcome<()> {
    let netlink = Netlink::open().trying(Kind::NetworkFailed, "open netlink")?;
    netlink
        .change(link_message(NEW_LINK, LOOPBACK_INDEX, UP))
        .trying(Kind::NetworkFailed, "bring up the loopback interface")?;
    let Some(network) = network else { return Ok(()) };
    let mut links = list_links(&netlink).trying(Kind::NetworkFailed, "list the interfaces")?;
    let mut named = Vec::new();
    for interface in &network.interfaces {
        let index = set_up_interface(&netlink, interface, &mut links)?;
        named.push((interface.name.as_str(), index));
    }
    for route in &network.routes {
        add_route(&netlink, route, &named)?;
    }
    Ok(())
}

fn list_links(netlink: &Netlink) -> Result<Vec<Link>, Errno> {
    let mut links = Vec::new();
    netlink.list(link_message(GET_LINK, 0, 0), |body| {
        let Some((header, rest)) = body.split_first_chunk::<16>() else { return };
        if u16::from_ne_bytes([header[2], header[3]]) != HARDWARE_ETHERNET {
            return;
        }
        let index = i32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
        let mut mac = Vec::new();
        for (kind, value) in attributes(rest) {
            if kind == LINK_ADDRESS {
                mac = value.to_vec();
            }
        }
        links.push(Link { index, mac, is_taken: false });
    })?;
    Ok(links)
}

/// The interface with that MAC, or else the first free one, which then gets it: a guest restored
/// from a template has the template's.
fn take_link<'a>(links: &'a mut [Link], mac: &[u8; 6]) -> Option<&'a mut Link> {
    let index = links
        .iter()
        .position(|link| !link.is_taken && link.mac == mac)
        .or_else(|| links.iter().position(|link| !link.is_taken))?;
    let link = &mut links[index];
    link.is_taken = true;
    Some(link)
}

fn set_up_interface(netlink: &Netlink, wanted: &Interface, links: &mut [Link]) -> Outcome<i32> {
    let mac = parse_mac(&wanted.mac)?;
    if wanted.name.is_empty() || wanted.name.len() >= NAME_BYTES {
        return Err(failed(format!("{:?} is not an interface name", wanted.name)));
    }
    let Some(link) = take_link(links, &mac) else {
        return Err(failed(format!("the machine has no interface for {}", wanted.name)));
    };
    let mut name = wanted.name.clone().into_bytes();
    name.push(0);
    let mut message = link_message(NEW_LINK, link.index, 0).attribute(LINK_NAME, &name);
    if link.mac != mac {
        message = message.attribute(LINK_ADDRESS, &mac);
    }
    if let Some(mtu) = wanted.mtu {
        message = message.attribute(LINK_MTU, &mtu.to_ne_bytes());
    }
    netlink
        .change(message)
        .trying(Kind::NetworkFailed, format_args!("set up interface {}", wanted.name))?;
    netlink
        .change(link_message(NEW_LINK, link.index, UP))
        .trying(Kind::NetworkFailed, format_args!("bring up interface {}", wanted.name))?;
    for text in &wanted.addresses {
        let (address, prefix) = parse_network(text)?;
        let mut flags = if address.is_ipv6() { NO_DUPLICATE_DETECTION } else { 0 };
        if !wanted.prefix_routes {
            flags |= NO_PREFIX_ROUTE;
        }
        let value = octets(&address);
        let message = Message::new(NEW_ADDRESS, FLAG_CREATE_NEW)
            .push(&[family(&address), prefix, 0, 0])
            .push(&link.index.to_ne_bytes())
            .attribute(ADDRESS_LOCAL, &value)
            .attribute(ADDRESS_ADDRESS, &value)
            .attribute(ADDRESS_FLAGS, &flags.to_ne_bytes());
        netlink
            .change(message)
            .trying(Kind::NetworkFailed, format_args!("add address {text} to {}", wanted.name))?;
    }
    Ok(link.index)
}

fn add_route(netlink: &Netlink, route: &Route, links: &[(&str, i32)]) -> Outcome<()> {
    let attempt = format!("add the route to {}", route.destination);
    let (destination, prefix) = parse_network(&route.destination)?;
    let gateway = match &route.gateway {
        Some(text) => {
            let gateway: IpAddr = text
                .parse()
                .map_err(|_| failed(format!("cannot {attempt}: {text:?} is not an address")))?;
            if gateway.is_ipv4() != destination.is_ipv4() {
                return Err(failed(format!("cannot {attempt}: {text} is of another family")));
            }
            Some(gateway)
        }
        None => None,
    };
    let scope = if gateway.is_none() && destination.is_ipv4() { SCOPE_LINK } else { 0 };
    let header =
        [family(&destination), prefix, 0, 0, TABLE_MAIN, PROTOCOL_BOOT, scope, TYPE_UNICAST];
    let mut message = Message::new(NEW_ROUTE, FLAG_CREATE_NEW).push(&header).push(&[0; 4]);
    if prefix > 0 {
        message = message.attribute(ROUTE_DESTINATION, &octets(&destination));
    }
    if let Some(gateway) = gateway {
        message = message.attribute(ROUTE_GATEWAY, &octets(&gateway));
    }
    if let Some(name) = &route.interface {
        let index = links.iter().find(|(known, _)| known == name).map(|(_, index)| index);
        let Some(index) = index else {
            return Err(failed(format!("cannot {attempt}: the pod has no interface {name}")));
        };
        message = message.attribute(ROUTE_OUT, &index.to_ne_bytes());
    }
    netlink.change(message).trying(Kind::NetworkFailed, attempt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        assert_eq!(parse_mac("02:00:00:00:00:fF").unwrap(), [2, 0, 0, 0, 0, 255]);
        for bad in
            ["", "02:00:00:00:00", "02:00:00:00:00:00:00", "02:00:00:00:00:+1", "0:0:0:0:0:0"]
        {
            assert!(parse_mac(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_network("10.0.0.2/24").unwrap().1, 24);
        assert_eq!(parse_network("::/0").unwrap().1, 0);
        for bad in ["10.0.0.2", "10.0.0.2/33", "x/1", "1.2.3.4/-1"] {
            assert_eq!(parse_network(bad).unwrap_err().kind, Kind::NetworkFailed, "{bad}");
        }
    }

    #[test]
    fn a_matching_link_is_preferred() {
        let link = |index, byte| Link { index, mac: std::vec![byte; 6], is_taken: false };
        let mut links = [link(2, 1), link(3, 2)];
        assert_eq!(take_link(&mut links, &[2; 6]).unwrap().index, 3);
        assert_eq!(take_link(&mut links, &[2; 6]).unwrap().index, 2);
        assert!(take_link(&mut links, &[2; 6]).is_none());
    }
}
