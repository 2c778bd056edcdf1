/**
 * Certificates for the nodes of a replicated database: an authority of the deployment's own, and one
 * certificate for each node, which shows it to the others and asks theirs.
 *
 * Holds true here:
 * - A key is readable by the account that uses it alone (0600), the authority's key by the supervisor's.
 * - What is there and valid stays: a node that runs goes on with the certificate that it has read.
 */
import { X509Certificate } from 'node:crypto';
import { chown, mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { Account } from '../machines/unit.ts';

/** Paths of PEM files. */
export interface CertificateFiles {
  /** Who signed it, and whom it trusts. */
  ca: string;
  certificate: string;
  key: string;
}

const DAY_MS = 86_400_000;
/** Long: nobody but this deployment ever sees them, and a cluster that is forgotten for years still starts. */
const VALID_DAYS = 3_650;
/** Made anew when less than this is left. */
const RENEW_DAYS = 365;

/**
 * Sees that a node has a certificate.
 * @param folder where the node's go
 * @param account who reads the key
 */
export async function prepareNodeCertificate(options: {
  authority: Authority;
  folder: string;
  name: string;
  host: string;
  account: Account | undefined;
}): Promise<CertificateFiles> {
  const { authority, folder, name, host, account } = options;
  const files = {
    ca: path.join(folder, 'ca.crt'),
    certificate: path.join(folder, 'node.crt'),
    key: path.join(folder, 'node.key'),
  };
  const present = await readFile(files.certificate, 'utf8').catch(() => undefined);
  if (present && isGood(present, authority.certificate, host)) return files;

  const { generate } = await import('selfsigned');
  const made = await generate([{ name: 'commonName', value: name }], {
    ...STRENGTH,
    ...validity(),
    ca: { cert: authority.certificate, key: authority.key },
    extensions: [
      { name: 'basicConstraints', cA: false, critical: true },
      { name: 'keyUsage', digitalSignature: true, keyEncipherment: true, critical: true },
      { name: 'extKeyUsage', serverAuth: true, clientAuth: true },
      {
        name: 'subjectAltName',
        altNames: [
          { type: 2, value: name },
          isAddress(host) ? { type: 7, ip: host } : { type: 2, value: host },
        ],
      },
    ],
  });
  await mkdir(folder, { recursive: true, mode: 0o700 });
  if (account) await chown(folder, account.uid, account.gid);
  await writePem(files.key, made.private, account);
  await writePem(files.ca, authority.certificate, account);
  await writePem(files.certificate, made.cert, account);
  return files;
}

const STRENGTH = { keyType: 'ec', curve: 'P-256', algorithm: 'sha256' } as const;

function validity() {
  const now = Date.now();
  // A clock that is a little behind on another machine must not find it invalid.
  return {
    notBeforeDate: new Date(now - DAY_MS),
    notAfterDate: new Date(now + VALID_DAYS * DAY_MS),
  };
}

export interface Authority {
  /** PEM. */
  certificate: string;
  key: string;
}

/** The authority of a deployment; made when it is not there. Not for several at a time: each would make its own. */
export async function prepareAuthority(folder: string): Promise<Authority> {
  const files = { certificate: path.join(folder, 'ca.crt'), key: path.join(folder, 'ca.key') };
  try {
    return {
      certificate: await readFile(files.certificate, 'utf8'),
      key: await readFile(files.key, 'utf8'),
    };
  } catch {
    // None yet, or half of one: nobody has a certificate of it.
  }
  const { generate } = await import('selfsigned');
  const made = await generate([{ name: 'commonName', value: 'Banyan deployment' }], {
    ...STRENGTH,
    ...validity(),
    extensions: [
      { name: 'basicConstraints', cA: true, critical: true },
      { name: 'keyUsage', keyCertSign: true, cRLSign: true, critical: true },
    ],
  });
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await writePem(files.key, made.private, undefined);
  await writePem(files.certificate, made.cert, undefined);
  return { certificate: `${made.cert.trim()}\n`, key: `${made.private.trim()}\n` };
}

function isGood(text: string, authority: string, host: string): boolean {
  try {
    const certificate = new X509Certificate(text);
    return (
      certificate.checkIssued(new X509Certificate(authority)) &&
      certificate.validToDate.getTime() > Date.now() + RENEW_DAYS * DAY_MS &&
      (isAddress(host) ? certificate.checkIP(host) : certificate.checkHost(host)) !== undefined
    );
  } catch {
    return false;
  }
}

function isAddress(host: string): boolean {
  return /^[\d.]+$|:/.test(host);
}

async function writePem(file: string, pem: string, account: Account | undefined): Promise<void> {
  await writeFile(`${file}.tmp`, `${pem.trim()}\n`, { mode: 0o600 });
  if (account) await chown(`${file}.tmp`, account.uid, account.gid);
  await rename(`${file}.tmp`, file);
}
