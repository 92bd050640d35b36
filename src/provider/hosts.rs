//! Hosts that a video may come from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Names are judged by what they resolve to.
#[derive(Debug)]
pub(crate) struct OuterResolver {
    pub(crate) loopback: bool,
}

impl reqwest::dns::Resolve for OuterResolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let loopback = self.loopback;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0))
                .await?
                .filter(|address| is_outer(address.ip(), loopback))
                .collect();
            if found.is_empty() {
                return Err(
                    format!("{} has no address that is fetched from", name.as_str()).into(),
                );
            }
            Ok(Box::new(found.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

/// A host that a video may come from. Link-local addresses and two clouds' own
/// serve a machine's secrets; loopback is fine only if the provider itself is there.
pub(crate) fn is_outer(ip: IpAddr, loopback: bool) -> bool {
    const METADATA_V4: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
    const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match ip {
        IpAddr::V4(ip) => {
            !(ip.is_link_local() || ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast())
                && ip != METADATA_V4
                && (loopback || !ip.is_loopback())
        }
        IpAddr::V6(ip) => match embedded_v4(ip) {
            Some(embedded) => is_outer(IpAddr::V4(embedded), loopback),
            None => {
                !(ip.is_unicast_link_local() || ip.is_unspecified() || ip.is_multicast())
                    && ip != METADATA_V6
                    && (loopback || !ip.is_loopback())
            }
        },
    }
}

/// The IPv4 address that a packet to this one may reach: mapped, NAT64, 6to4.
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match ip.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => ip.to_ipv4_mapped(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_judged_by_where_a_packet_may_go() {
        #[rustfmt::skip]
        let rows = [
            ("169.254.169.254", false), ("100.100.100.200", false), ("fd00:ec2::254", false),
            ("127.0.0.1", false), ("::1", false), ("0.0.0.0", false), ("::", false),
            ("::ffff:169.254.169.254", false), ("::ffff:100.100.100.200", false),
            ("64:ff9b::169.254.169.254", false), ("64:ff9b::127.0.0.1", false),
            ("64:ff9b::100.100.100.200", false), ("64:ff9b::0.0.0.0", false),
            ("2002:a9fe:a9fe::1", false), ("2002:7f00:1::", false), ("2002:6464:64c8::1", false),
            ("203.0.113.9", true), ("100.100.100.201", true), ("fd00:ec2::253", true),
            ("::ffff:203.0.113.9", true), ("64:ff9b::203.0.113.9", true),
            ("2002:cb00:7109::1", true), ("2001:db8::9", true),
        ];
        for (ip, outer) in rows {
            assert_eq!(is_outer(ip.parse().unwrap(), false), outer, "{ip}");
        }
        for ip in ["127.0.0.1", "::1", "64:ff9b::127.0.0.1", "::ffff:127.0.0.1"] {
            assert!(
                is_outer(ip.parse().unwrap(), true),
                "{ip}, beside the provider"
            );
        }
    }
}
