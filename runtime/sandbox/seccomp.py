"""The system calls that a scaffold may make: an allow-list, assembled to classic BPF for the kernel's seccomp filter.

What is not on the list fails with EPERM, so that a library that merely tries goes on. `clone3` fails with ENOSYS,
because a filter cannot read its flags, and the C library then uses `clone`, whose flags are checked. A call through
another architecture's table kills. Left out on purpose: everything that mounts, traces, loads or makes namespaces,
keys, BPF, io_uring, userfaultfd; and `memfd_create`, System V memory and shared anonymous mappings, which would hold
memory that belongs to no process and to no mount: the last keep what is unmapped.
"""

import hashlib
import platform
import struct

from events.errors import Misconfigured

UNIX, INET, INET6 = 1, 2, 10
"""Families of sockets. None of vsock, packet or netlink: a network namespace does not cut vsock off."""
FAMILIES = (UNIX, INET, INET6)

CALLS = """
read:0:63 write:1:64 open:2 close:3:57 stat:4 fstat:5:80 lstat:6 poll:7 lseek:8:62 mmap:9:222 mprotect:10:226
munmap:11:215 brk:12:214 rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 pread64:17:67 pwrite64:18:68
readv:19:65 writev:20:66 access:21 pipe:22 select:23 sched_yield:24:124 mremap:25:216 msync:26:227 mincore:27:232
madvise:28:233 dup:32:23 dup2:33 pause:34 nanosleep:35:101 getitimer:36:102 alarm:37 setitimer:38:103 getpid:39:172
sendfile:40:71 connect:42:203 accept:43:202 sendto:44:206 recvfrom:45:207 sendmsg:46:211 recvmsg:47:212
shutdown:48:210 bind:49:200 listen:50:201 getsockname:51:204 getpeername:52:205 setsockopt:54:208 getsockopt:55:209
fork:57 vfork:58 execve:59:221 exit:60:93 wait4:61:260 kill:62:129 uname:63:160 fcntl:72:25 flock:73:32 fsync:74:82
fdatasync:75:83 truncate:76:45 ftruncate:77:46 getdents:78 getcwd:79:17 chdir:80:49 fchdir:81:50 rename:82 mkdir:83
rmdir:84 creat:85 link:86 unlink:87 symlink:88 readlink:89 chmod:90 fchmod:91:52 chown:92 fchown:93:55 lchown:94
umask:95:166 gettimeofday:96:169 getrlimit:97:163 getrusage:98:165 sysinfo:99:179 times:100:153 getuid:102:174
getgid:104:176 setuid:105:146 setgid:106:144 geteuid:107:175 getegid:108:177 setpgid:109:154 getppid:110:173
getpgrp:111 setsid:112:157 setreuid:113:145 setregid:114:143 getgroups:115:158 setgroups:116:159 setresuid:117:147
getresuid:118:148 setresgid:119:149 getresgid:120:150 getpgid:121:155 setfsuid:122:151 setfsgid:123:152 getsid:124:156
capget:125:90 capset:126:91 rt_sigpending:127:136 rt_sigtimedwait:128:137 rt_sigqueueinfo:129:138
rt_sigsuspend:130:133 sigaltstack:131:132 utime:132 mknod:133 statfs:137:43 fstatfs:138:44 getpriority:140:141
setpriority:141:140 sched_setparam:142:118 sched_getparam:143:121 sched_setscheduler:144:119
sched_getscheduler:145:120 sched_get_priority_max:146:125 sched_get_priority_min:147:126 sched_rr_get_interval:148:127
mlock:149:228 munlock:150:229 prctl:157:167 arch_prctl:158 setrlimit:160:164 sync:162:81 gettid:186:178
readahead:187:213 getxattr:191:8 lgetxattr:192:9 fgetxattr:193:10 listxattr:194:11 llistxattr:195:12 flistxattr:196:13
tkill:200:130 time:201 futex:202:98 sched_setaffinity:203:122 sched_getaffinity:204:123 epoll_create:213
getdents64:217:61 set_tid_address:218:96 restart_syscall:219:128 fadvise64:221:223 timer_create:222:107
timer_settime:223:110 timer_gettime:224:108 timer_getoverrun:225:109 timer_delete:226:111 clock_gettime:228:113
clock_getres:229:114 clock_nanosleep:230:115 exit_group:231:94 epoll_wait:232 epoll_ctl:233:21 tgkill:234:131
utimes:235 waitid:247:95 inotify_init:253 inotify_add_watch:254:27 inotify_rm_watch:255:28 openat:257:56
mkdirat:258:34 mknodat:259:33 fchownat:260:54 futimesat:261 newfstatat:262:79 unlinkat:263:35 renameat:264:38
linkat:265:37 symlinkat:266:36 readlinkat:267:78 fchmodat:268:53 faccessat:269:48 pselect6:270:72 ppoll:271:73
set_robust_list:273:99 get_robust_list:274:100 splice:275:76 tee:276:77 sync_file_range:277:84 utimensat:280:88
epoll_pwait:281:22 signalfd:282 timerfd_create:283:85 eventfd:284 fallocate:285:47 timerfd_settime:286:86
timerfd_gettime:287:87 accept4:288:242 signalfd4:289:74 eventfd2:290:19 epoll_create1:291:20 dup3:292:24 pipe2:293:59
inotify_init1:294:26 preadv:295:69 pwritev:296:70 rt_tgsigqueueinfo:297:240 recvmmsg:299:243 prlimit64:302:261
sendmmsg:307:269 getcpu:309:168 sched_getattr:315:275 renameat2:316:276 getrandom:318:278 execveat:322:281
membarrier:324:283 copy_file_range:326:285 preadv2:327:286 pwritev2:328:287 pkey_mprotect:329:288 pkey_alloc:330:289
pkey_free:331:290 statx:332:291 rseq:334:293 pidfd_send_signal:424:424 pidfd_open:434:434 close_range:436:436
openat2:437:437 faccessat2:439:439 epoll_pwait2:441:441 futex_waitv:449:449 fchmodat2:452:452 futex_wake:454:454
futex_wait:455:455 futex_requeue:456:456 get_mempolicy:239:236
"""
"""name:number on x86_64:number on aarch64, the last left out where there is none."""

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""AUDIT_ARCH_* (linux/audit.h), and the column in `CALLS`."""
SOCKET, SOCKETPAIR, CLONE, IOCTL, CLONE3 = (41, 198), (53, 199), (56, 220), (16, 29), (435, 435)
MMAP, PRCTL = (9, 222), (157, 167)

NAMESPACES = 0x7E020000
"""CLONE_NEW* for mounts, cgroups, UTS, IPC, users, processes and the network; that for time cannot be asked of clone.
"""
TYPES = (1, 2, 5)
"""SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET: nothing raw."""
PROTOCOLS = (0, 6, 17)
SHARED_ANONYMOUS, HUGE = 0x21, 0x40000
"""MAP_SHARED and MAP_ANONYMOUS together; MAP_HUGETLB, whose pages count as no process's."""
SET_DUMPABLE = 4
"""PR_SET_DUMPABLE, by which a process hides what it holds from others of its account."""
TERMINAL = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX, which type into a terminal."""

_LOAD, _EQUAL, _ABOVE, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x54, 0x06
_ALLOW, _KILL, _EPERM, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
_NUMBER, _ARCHITECTURE = 0, 4


def program(machine: str = "", families: tuple[int, ...] = FAMILIES, hiding: bool = True) -> bytes:
    """The filter as an array of `struct sock_filter`; raises Misconfigured for a machine whose system calls are not
    known here.

    `hiding` says whether a process may hide what it holds from the watchdog.
    """
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        raise Misconfigured(
            f"No list of system calls is known for {machine}; scaffolds can be confined on "
            f"{' and '.join(ARCHITECTURES)} only. "
            "Run evolog on one of these."
        )
    architecture, column = ARCHITECTURES[machine]
    code = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, architecture), _returned(_KILL), (_LOAD, 0, 0, _NUMBER)]
    code += _if_call(CLONE3[column], [_returned(_ENOSYS)])
    code += _if_call(CLONE[column], [_argument(0), (_ANY_BIT, 0, 1, NAMESPACES), _returned(_EPERM), _returned(_ALLOW)])
    code += _if_call(IOCTL[column], [_argument(1), *_return_if_equal(TERMINAL, _EPERM), _returned(_ALLOW)])
    code += _if_call(
        MMAP[column],
        [
            _argument(3),
            (_ANY_BIT, 0, 1, HUGE),
            _returned(_EPERM),
            (_AND, 0, 0, SHARED_ANONYMOUS),
            *_return_if_equal((SHARED_ANONYMOUS,), _EPERM),
            _returned(_ALLOW),
        ],
    )
    if not hiding:
        code += _if_call(PRCTL[column], [_argument(0), *_return_if_equal((SET_DUMPABLE,), _EPERM), _returned(_ALLOW)])
    socket = [
        _argument(0),
        *_refuse_unless_equal(families),
        _argument(1),
        (_AND, 0, 0, 0xF),
        *_refuse_unless_equal(TYPES),
        _argument(2),
        *_refuse_unless_equal(PROTOCOLS),
    ]
    for call in (SOCKET, SOCKETPAIR):
        code += _if_call(call[column], [*socket, _returned(_ALLOW)])
    for first, last in _ranges(numbers(machine)):
        code += [(_ABOVE, 3, 0, last), (_AT_LEAST, 0, 1, first), _returned(_ALLOW), _returned(_EPERM)]
    code += [_returned(_EPERM)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def landlock_program() -> bytes:
    """The filter of Landlock's profile: unix sockets alone, and no process hides which files it holds open."""
    return program(families=(UNIX,), hiding=False)


def digest(code: bytes) -> str:
    """The first 8 digits of the filter's SHA-256, by which the log names it."""
    return hashlib.sha256(code).hexdigest()[:8]


def numbers(machine: str) -> dict[str, int]:
    """The calls that are allowed, by name; of mmap and prctl not with all arguments."""
    column = ARCHITECTURES[machine][1]
    rows = [row.split(":") for row in CALLS.split()]
    return {row[0]: int(row[1 + column]) for row in rows if len(row) > 1 + column}


_Instruction = tuple[int, int, int, int]


def _returned(value: int) -> _Instruction:
    return (_RETURN, 0, 0, value)


def _argument(index: int) -> _Instruction:
    return (_LOAD, 0, 0, 16 + 8 * index)  # the low half, on a little-endian machine


def _if_call(number: int, body: list[_Instruction]) -> list[_Instruction]:
    return [(_EQUAL, 0, len(body), number), *body]


def _return_if_equal(values: tuple[int, ...], then: int) -> list[_Instruction]:
    return [line for value in values for line in ((_EQUAL, 0, 1, value), _returned(then))]


def _refuse_unless_equal(values: tuple[int, ...]) -> list[_Instruction]:
    """EPERM unless the loaded value is one of these."""
    return [*((_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)), _returned(_EPERM)]


def _ranges(calls: dict[str, int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for number in sorted(calls.values()):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges
