/**
 * How Patroni is started: by its own interpreter, with what older versions get wrong, or do slowly, put right first.
 *
 * **Wrong.** Patroni before 3.0.3 (Debian 12 has 3.0.2), with etcd's third interface, writes the leader's key without
 * looking whose it is when its own lease has expired. A primary's machine that slept, its PostgreSQL dead, then
 * takes the lead from the one that was elected meanwhile and has acknowledged writes, and promotes its old data
 * on a timeline of the same number: those writes are lost, and no server can follow another any more. Seen by the
 * witness (test/operate/database/faults.test.ts); mended in https://github.com/patroni/patroni/pull/2689.
 * With this, the key is written under a new lease only while it still names this node. Else the lead is given up,
 * and all take part in the election as ever.
 *
 * **Wrong, too.** Its rounds, leases and deadlines go by the time of day. When the clock of the primary's machine is
 * set back by an hour, it sleeps for an hour, while another is elected and waits for it to follow
 * (test/operate/database/clock.test.ts). With this they go by the clock that nobody sets.
 *
 * **Wrong, as well.** A primary whose disk is full stops in the middle of a record that goes on in the next segment
 * of the log. What it has replayed is then not beyond the point where the new timeline begins, so Patroni sees no need to
 * rewind it; but PostgreSQL reads the record's beginning from the old file, asks the new primary for the rest,
 * which has another record there, and waits forever (test/operate/database/full-disk.test.ts). With this,
 * such a server is stopped as for a rewind, and what its log holds beyond that point is blanked.
 *
 * **Slow** (bench/failover.ts; of the 5 s without writes after the primary's process was killed):
 * - The death is noticed by the next round, a second apart; one that is asking PostgreSQL something meanwhile
 *   goes on to ask for 1.5 s more (`retry_timeout / 2`); in a container it can look alive for 2 s. So it is told at
 *   once, looks whether it is a zombie, and does not ask the dead again.
 * - Whether the promoted server takes writes is looked at once a second, and its replicas' slots are made after
 *   that; until one of them is there, commits wait. So it is looked at ten times a second.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';

/** The Python program that is run in Patroni's place; its arguments are Patroni and Patroni's own. */
export const PATRONI_LAUNCHER = `"""Runs Patroni. Written by Banyan: see src/engines/patroni-guard.ts there."""
import importlib
import os
import runpy
import select
import struct
import sys
import threading
import time

from patroni.version import __version__


def guard(etcd3):
    @etcd3.catch_return_false_exception
    def update_leader(self):
        retry = self._retry.copy()

        def retried(*args, **kwargs):
            kwargs['retry'] = retry
            return retry(*args, **kwargs)

        before = self._lease
        self._run_and_handle_exceptions(self._do_refresh_lease, True, retry=retried)
        leader = self.cluster and self.cluster.leader
        if not self._lease:
            return False
        if isinstance(leader, etcd3.Leader) and leader.session == self._lease:
            return True
        # Not seen under this lease: is it ours all the same?
        key = etcd3.base64_encode(self.leader_path)
        name = etcd3.base64_encode(self._name)
        ours = {'key': key, 'target': 'VALUE', 'value': name}
        put = {'key': key, 'value': name, 'lease': self._lease}
        if self._run_and_handle_exceptions(
                self._client.txn, ours, {'request_put': put}, retry=retried):
            return True
        # With the old lease there was no time in which another could have led.
        return before == self._lease and bool(self._run_and_handle_exceptions(
            self._client.put, self.leader_path, self._name, self._lease,
            create_revision='0', retry=retried))

    etcd3.Etcd3._update_leader = update_leader


def quicken(postgresql, postmaster, ha):
    every = postgresql.polling_loop
    postgresql.polling_loop = lambda timeout, interval=0.1: every(timeout, interval)

    query = postgresql.Postgresql._query

    def query_the_living(self, *args):
        try:
            return query(self, *args)
        except postgresql.PostgresConnectionException as error:
            if self.is_running():
                raise
            raise postgresql.RetryFailedError(str(error))

    postgresql.Postgresql._query = query_the_living

    # In a container whose first process takes its time to bury the dead, they look alive.
    process = postmaster.PostmasterProcess
    is_running = process.is_running
    is_postmaster = process._is_postmaster_process

    def is_dead(self):
        try:
            return self.status() == postmaster.psutil.STATUS_ZOMBIE
        except postmaster.psutil.NoSuchProcess:
            return True

    process.is_running = lambda self: is_running(self) and not is_dead(self)
    process._is_postmaster_process = lambda self: not is_dead(self) and is_postmaster(self)

    def tell_of_its_end(self):
        seen = None
        while True:
            process = self.state_handler._postmaster_proc
            if process is None or process.pid == seen:
                time.sleep(0.2)
                continue
            try:
                handle = os.pidfd_open(process.pid)
            except OSError:
                time.sleep(0.2)
                continue
            ending = select.poll()
            ending.register(handle, select.POLLIN)
            ending.poll()
            os.close(handle)
            seen = process.pid
            self.wakeup()

    begin = ha.Ha.__init__

    def begin_watching(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        # Linux has this, from Python 3.9 on.
        if hasattr(os, 'pidfd_open'):
            threading.Thread(target=tell_of_its_end, args=(self,), daemon=True).start()

    ha.Ha.__init__ = begin_watching


def rewind_the_unfinished(rewind):
    the_class = rewind.Rewind
    check = the_class._check_timeline_and_lsn
    log_history = the_class._log_primary_history
    run = the_class.pg_rewind

    def remember_fork(self, history, i):
        self.fork = history[i][:2]
        log_history(history, i)

    def check_unfinished(self, leader):
        self.fork = None
        self.unfinished = None
        check(self, leader)
        if self.fork and self._state == rewind.REWIND_STATUS.NOT_NEED and self._postgresql.is_running():
            timeline, lsn = self.fork
            size = int(self._postgresql.controldata()['Bytes per WAL segment'])
            if has_record(self._postgresql.wal_dir, timeline, lsn, size):
                rewind.logger.info('the log has the beginning of a record beyond the fork: it is blanked')
                self.unfinished = timeline, lsn, size
                self._state = rewind.REWIND_STATUS.NEED

    def blank_and_rewind(self, r):
        if self.unfinished:
            blank(self._postgresql.wal_dir, *self.unfinished)
            self.unfinished = None
        return run(self, r)

    the_class.fork = the_class.unfinished = None
    the_class._log_primary_history = remember_fork
    the_class._check_timeline_and_lsn = check_unfinished
    the_class.pg_rewind = blank_and_rewind


def segment(folder, timeline, number, size):
    each = 0x100000000 // size
    return os.path.join(folder, '%08X%08X%08X' % (timeline, number // each, number % each))


def has_record(folder, timeline, lsn, size):
    """Whether a record begins at this place in the log of that timeline. The file may be an older one that is used
    again: then its page, or the record before this one, is of another place."""
    page = lsn - lsn % PAGE
    head = lsn
    # A record's length is in one page with its beginning, the place of the record before it may be in the next.
    if lsn == page or page + PAGE - lsn < 16:
        head = None
        page = page if lsn == page else page + PAGE
    try:
        with open(segment(folder, timeline, page // size, size), 'rb') as file:
            file.seek(page % size)
            content = file.read(PAGE)
    except FileNotFoundError:
        return False
    if len(content) < PAGE or struct.unpack_from('=Q', content, 8)[0] != page:
        return False
    if head is None:
        return True
    length, _, before = struct.unpack_from('=IIQ', content, head - page)
    return length >= 24 and 0 < lsn - before <= size


def blank(folder, timeline, lsn, size):
    number = lsn // size
    with open(segment(folder, timeline, number, size), 'r+b') as file:
        file.seek(lsn % size)
        file.write(bytes(size - lsn % size))
        file.flush()
        os.fsync(file.fileno())
    while os.path.exists(segment(folder, timeline, number + 1, size)):
        number += 1
        os.remove(segment(folder, timeline, number, size))


PAGE = 8192


class SteadyTime:
    """The time of day when this began, and what has passed since by the clock that nobody sets."""
    begun = time.time() - time.monotonic()

    def time(self):
        return self.begun + time.monotonic()

    def __getattr__(self, name):
        return getattr(time, name)


def steady():
    for name in ('__main__', 'api', 'ha', 'utils', 'dcs', 'dcs.etcd', 'dcs.etcd3', 'postgresql'):
        importlib.import_module('patroni.' + name).time = SteadyTime()


version = tuple(int(part) for part in __version__.split('.')[:3])
if version[:2] == (3, 0):
    import patroni.dcs.etcd3
    import patroni.ha
    import patroni.postgresql
    import patroni.postgresql.postmaster
    import patroni.postgresql.rewind
    if version < (3, 0, 3):
        guard(patroni.dcs.etcd3)
    quicken(patroni.postgresql, patroni.postgresql.postmaster, patroni.ha)
    rewind_the_unfinished(patroni.postgresql.rewind)
    steady()

sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
`;

/** @param folder the node's */
export function launcherFileOf(folder: string): string {
  return path.join(folder, 'launch.py');
}

/** The interpreter that an installed Python program names in its first line: its modules are that one's. */
export function interpreterOf(program: string): string {
  const [firstLine = ''] = readFileSync(program, 'utf8').split('\n', 1);
  const [interpreter = '', argument] = firstLine.replace(/^#!\s*/, '').split(/\s+/);
  // "#!/usr/bin/env python3"
  return (path.basename(interpreter) === 'env' ? argument : interpreter) || 'python3';
}
