"""Programs that are well known: no name of them is a misspelt function.

A list, so that `check` says the same on every machine: what is installed on the controller tells nothing of the target.
Sources: Debian's essential packages (coreutils, util-linux, procps, shadow, e2fsprogs, iproute2 …), and what installers
of servers call.
"""

from __future__ import annotations

PROGRAMS = frozenset(
    """
    a2dismod a2dissite a2enconf a2enmod a2ensite acpi addgroup adduser agetty aide airmon alien amixer ansible apk
    aplay apt aria2c arp arping aspell at atop atq atrm aureport ausearch autoconf automake autoreconf avahi awk aws
    awslocal az b2 b2sum badblocks base32 base64 basename basenc bash bat batch bbe bc bind bison blkdiscard blkid
    blkzone blockdev borg bosh brctl brew bridge bsdtar btop btrfs buildah bun bundle bunzip bunzip2 busctl busybox
    bwrap bzcat bzcmp bzdiff bzegrep bzfgrep bzgrep bzip2 bzless bzmore bzr ca caddy cargo cat cc ccze cd certbot
    certtool cfdisk chage chattr chcon chef chgpasswd chgrp chmod choco chown chpasswd chronyc chroot chrt chsh
    cilium cite cksum clamscan clang clear clusterctl cmake cmp collectd comm composer conda consul convert corepack
    cp cpan cpanm cpio cron crontab cryptsetup cscli csh csplit csrutil ctr cups cupsctl curl curlie cut cvs cwebp
    dash date dbus dcb dd debconf debootstrap deborphan debugfs dehydrated delgroup delpart deluser deno depmod
    devlink df dhclient dhcpcd dialog diff diff3 dig dir dircmp dircolors dirname disable dkms dlv dm dmesg
    dmidecode dmsetup dnf dnsdomainname docker domainname dos2unix dotnet dpkg dracut drill drush dscl du duf
    dumpe2fs duplicity dutil e2fsck e2image e2label e2undo e4crypt e4defrag echo ed egrep eject elixir emacs emerge
    enable env envsubst erl esxcli etcdctl ethtool ex exa exiftool exim expand expect expiry expr f2fs factor
    fail2ban faillog faketime fallocate false fc fd fdisk fdupes fetch fetchmail ffmpeg ffprobe fgrep figlet file
    filefrag find findfs findmnt fio firewalld fish flask flatpak flex flock fmt fold fping free freshclam fsck
    fstrim ftp fuser fusermount fwupdmgr fzf gatttool gawk gcc gcloud gdb gdisk gem genisoimage getcap getconf
    getenforce getent getfacl getopt gettext getty gh ghc git gitlab glab glances gmake gnupg go gofmt gpasswd gpg
    gpg2 gpgconf gpgsm gpgv gpgv2 gradle grafana grep groupadd groupdel groupmems groupmod groups grpck grpconv
    grpcurl grpunconv grub grub2 gsettings gsutil gtar gulp gunicorn gunzip gzcat gzip haproxy hardlink hash hdparm
    head helm help hg highlight host hostid hostname hostnamectl hping3 htop htpasswd http httpd httpie httping hugo
    hwclock hwinfo iconv id identify idn idn2 ifconfig ifdown ifenslave ifquery ifstat iftop ifup in info infocmp
    init initctl inotifywait insmod install installkernel invoke ionice iostat iotop ip ip6tables ipcalc ipcmk ipcrm
    ipcs iperf iperf3 ipfw ipmitool ipsec ipset iptables iptraf iptunnel isainfo ischroot iscsiadm iw iwconfig
    iwlist jailhouse java javac jekyll jenkins jo join journalctl jq jshell julia jupyter k3d k3s k6 k9s kadmin
    kargo kdestroy keepalived kexec keytool kill killall kind kinit klist kops kpartx krew ksh kubeadm kubectl
    kubectx kubelet kubens kustomize kvm last lastb lastlog launchctl ld ldapadd ldapdelete ldapmodify ldappasswd
    ldapsearch ldapwhoami ldconfig ldd lego less lessecho lessfile lesskey lesspipe lftp libtool lilo link linkerd
    linode lint linux32 linux64 lldpctl lldpd ln local locale localectl localedef locate logger login loginctl
    logname logrotate look losetup lp lpr lpstat ls lsattr lsblk lscpu lsipc lslocks lslogins lsmem lsmod lsof lspci
    lsscsi lsusb ltrace lua luac luarocks lvchange lvconvert lvcreate lvdisplay lvextend lvm lvreduce lvremove
    lvresize lvs lxc lxd lynx lz4 lzcat lzip lzma lzop m4 mail mailq mailx make makepkg man mariadb mariadbd mask
    mawk mc md5 md5sum mdadm mdb mdfind melt mesg meson minikube mise mkdir mke2fs mkfifo mkfs mkinitcpio
    mkinitramfs mkisofs mknod mkpasswd mkswap mktemp modinfo modprobe molly mongo mongod mongodump mongosh monit
    more mosh mosquitto mount mountpoint mp3info mpstat mtr multipass multitail munin mutt mv mvn mycli mysql
    mysqladmin mysqlcheck mysqld mysqldump mysqlimport named namei nameif nano nasm nawk nc ncal ncat ncdu ndctl
    neofetch netcat netplan netsh netstat networkctl newaliases newgrp newusers nextflow nft nginx ngrep nice nid
    nix nixos nl nm nmap nmcli nmtui node nodejs nohup nologin nomad npm nproc npx nsenter nslookup nstat ntpd
    ntpdate ntpq numfmt nvidia nvim nvme nvram objdump oc occ oci od odm openssl openvpn opkg osqueryi ostree packer
    pacman pacmd pactl pandoc parallel parted partprobe partx passgen passwd paste patch pathchk pcre2grep pcs
    pdnsutil percona perf perl pfctl pflogsumm pg pg_dump pg_dumpall pg_isready pg_restore pgbench pgrep php phpcs
    phpunit pidwait ping ping6 pinky pip pip2 pip3 pipenv pipx pivot_root pkexec pkg pkgadd pkginfo pkgutil pkill
    plutil pm2 pmap pmset pnpm podman poetry poweroff pppd pppoe pr pre printenv printf privoxy prlimit ps pslog
    psql psrinfo pssh pstack pstree ptx pulumi puppet pvchange pvcreate pvdisplay pvmove pvremove pvresize pvs pwck
    pwconv pwd pwdx pwgen pwsh pwunconv py pyenv pyinstaller pytest python python2 python3 qemu qmail quota
    quotacheck quotaoff quotaon rabbitmqctl rails rake ranger rar rbash rc rclone rdiff rdma readlink realpath
    reboot redis redis_cli remount rename renice rescan reset resize resize2fs resizepart resolvconf resolvectl
    restic restorecon rev rg rgrep rgxg rkhunter rlogin rm rmdir rmmod rndc route rpm rpm2cpio rpmbuild rpmdb
    rpmkeys rsh rspamadm rspec rsync rtcwake rtorrent ruby runc runcon runit runsv runuser rustc rustup rvm sa sar
    sass savelog sbt scala scalar scan schroot scl scp screen script scriptlive scriptreplay scrub sdiff sdk secedit
    sed semanage semodule sendmail sensors seq service sestatus setcap setenforce setfacl setfont setopt setpriv
    setquota setsebool setsid setterm setup setxkbmap sfdisk sftp sgdisk sh sha1sum sha224sum sha256sum sha384sum
    sha512sum shasum shellcheck shfmt shift shopt showmount shred shuf shutdown sipcalc skopeo slabtop slapadd
    slapcat slapd slappasswd sleep slogin smartctl smbclient smbd smbpasswd smbstatus snap snapper snmpget snmpwalk
    snort socat softwareupdate sops sort spamc spamd split sqlcmd sqlite sqlite3 squid ss ssh sshd sshfs sshpass
    ssmtp start startx stat stdbuf step stop strace strings strip stty stunnel su subscription sudo sudoedit
    sudoreplay sulogin sum supervisord sv svcadm svcs svn sw_vers swaks swaplabel swapoff swapon swift sync sysbench
    sysctl systemctl systemd systool sysv tabs tac tail tailscale tailscaled tar task taskset tc tcpdump tcsh tdnf
    tee telinit telnet tempfile terraform test tex tftp tic tig time timedatectl timeout tinyproxy tldr tmate tmux
    toe top tor touch tox tput traceroute traceroute6 tracert transmission tree trivy true truncate truss tsc tsort
    tty ttyd tunctl tune2fs tuned tzdata tzselect ubuntu uci uclampset udevadm ufw uglifyjs umount uname uncompress
    unexpand uninstall uniq unix2dos unixodbc unlink unlzma unrar unshare unsquashfs unxz unzip unzstd updatedb
    upower uptime upx urpmi usbmount useradd userdel usermod users utmpdump uucp uuid uuidgen uv uwsgi vagrant
    valgrind valkey varnish vault vboxmanage vdir vdpa vercel vgchange vgcreate vgdisplay vgextend vgreduce vgremove
    vgs vi view vigr vim vimdiff vipw virsh virt virtualenv visudo vlc vmstat vnstat vpnc wal wall warp wasm watch
    wdctl weechat wg wget whatis where whereis which whiptail who whoami whois wine wipefs wireguard wodim write
    xargs xauth xbps xcodebuild xdotool xfs_growfs xfs_repair xhost xinit xkbcomp xmllint xmlstarlet xrandr xset
    xsltproc xterm xxd xxhsum xz xzcat xzcmp xzdiff xzegrep xzfgrep xzgrep xzless xzmore yarn yes yq yqq yum zabbix
    zcat zcmp zdiff zdump zegrep zfgrep zforce zfs zgrep zic zip zipinfo zipnote zless zmore znew zoxide zpool
    zramctl zsh zstd zstdcat zypper
    """.split()  # noqa: SIM905 - a list literal would take 900 lines
)
"""names of programs, without those with a hyphen or a dot, which no function of a script has"""
