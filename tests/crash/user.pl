# Somebody who uses each disk of the agent as soon as it is mounted: writes a
# file for each boot, makes it durable, and only then says so on the console,
# where it outlasts the machine. Under `check` says once which files are there
# as they were written, and ends.
use strict;
use warnings;
use Fcntl;

my ($boot, $check) = @ARGV;
my $FSYNC = 74;
my %done;

sub contents { my ($serial, $boot) = @_; return "$serial of boot $boot\n" x 2000 }

sub say_so {
    my $out;
    if ($check) { $out = \*STDOUT } else { open $out, '>', '/dev/console' or return }
    # Twice: somebody else may speak on the console in the middle of a line.
    syswrite $out, "user: @_.\n" for 1, 2;
}

sub serial {
    my ($device) = @_;
    open my $page, '<', "/sys/block/$device/device/vpd_pg80" or return;
    read $page, my $bytes, 256;
    return $bytes =~ /\A....(.+)\z/s ? $1 =~ s/\A\s+|[\s\0]+\z//gr : undef;
}

sub durable {
    my ($path, $bytes) = @_;
    sysopen(my $file, $path, O_WRONLY | O_CREAT | O_EXCL) or return 0;
    syswrite($file, $bytes) == length $bytes or return 0;
    syscall($FSYNC, fileno $file) == 0 or return 0;
    my $above = $path =~ s{/[^/]*\z}{}r;
    sysopen(my $directory, $above, O_RDONLY) or return 0;
    return syscall($FSYNC, fileno $directory) == 0;
}

do {
    open my $mounts, '<', '/proc/self/mounts' or die;
    for (<$mounts>) {
        my ($device, $place) = split ' ';
        next unless $place =~ m{\A/mnt/longhorn/(.+)\z};
        my $name = $1;
        next if $done{$name}++;
        my $serial = serial($device =~ m{\A/dev/(sd[a-z]+)} ? $1 : '') // next;
        for my $path (glob "$place/durable-*") {
            my ($then) = $path =~ /-(\d+)\z/;
            open my $file, '<', $path or next;
            read $file, my $bytes, 1 << 20;
            say_so('kept', $serial, $name, $then) if $bytes eq contents($serial, $then);
        }
        say_so('mounted', $serial, $name);
        next if $check;
        next unless durable("$place/durable-$boot", contents($serial, $boot));
        say_so('durable', $serial, $name, $boot);
        open my $said, '>', '/run/user.durable';
    }
    select undef, undef, undef, 0.05;
} until $check;
