/** The certificate that the balancers show: the user's own, or one signed by itself for trying. */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { chmodSync, existsSync, readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { BanyanError } from '../../errors.ts';
import { writeFileAtomic } from '../../map/atomic-file.ts';
import type { Deployment } from '../deployment.ts';

export class CertificateUnusable extends BanyanError {
  constructor(file: string, reason: string) {
    super('CERTIFICATE_UNUSABLE', {
      what: `The TLS certificate cannot be used: ${reason}`,
      where: file,
      remedy:
        'Nothing was changed. `balancer.tls.certificate` is one PEM file with the certificate, its chain and its private key, relative to the application folder',
    });
  }
}

export function certificateFile(deployment: Deployment, certificate: string | undefined): string {
  if (certificate) return path.resolve(deployment.paths.app, certificate);
  return path.join(deployment.paths.balancer, 'self-signed.pem');
}

/**
 * Sees that the user's certificate can be used, or makes one that signs itself.
 * @throws CertificateUnusable
 */
export async function prepareCertificate(
  deployment: Deployment,
  certificate: string | undefined,
): Promise<void> {
  const file = certificateFile(deployment, certificate);
  if (certificate) return checkCertificate(file);
  if (existsSync(file)) {
    try {
      return checkCertificate(file);
    } catch {
      // It has expired, or somebody has edited it: another one is as good.
    }
  }
  await makeSelfSigned(deployment, file);
}

/** @throws CertificateUnusable */
function checkCertificate(file: string): void {
  const text = read(file);
  if (!/-----BEGIN CERTIFICATE-----/.test(text)) {
    throw new CertificateUnusable(file, 'there is no certificate in it');
  }
  const key = /-----BEGIN ([A-Z ]*PRIVATE KEY)-----[\s\S]*?-----END \1-----/.exec(text)?.[0];
  if (!key) throw new CertificateUnusable(file, 'there is no private key in it');
  if (/ENCRYPTED/.test(key)) {
    throw new CertificateUnusable(
      file,
      'its private key wants a password, and nobody is there to type it',
    );
  }
  let leaf: X509Certificate;
  let belongs: boolean;
  try {
    // The first in the file is the server's own.
    leaf = new X509Certificate(text);
    belongs = leaf.checkPrivateKey(createPrivateKey(key));
  } catch (error) {
    throw new CertificateUnusable(file, (error as Error).message);
  }
  if (!belongs) {
    throw new CertificateUnusable(file, 'its private key is that of another certificate');
  }
  if (leaf.validToDate < new Date()) {
    throw new CertificateUnusable(
      file,
      `it expired on ${leaf.validToDate.toISOString().slice(0, 10)}`,
    );
  }
}

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new CertificateUnusable(file, (error as Error).message);
  }
}

async function makeSelfSigned(deployment: Deployment, file: string): Promise<void> {
  const { generate } = await import('selfsigned');
  const { cert, private: key } = await generate([{ name: 'commonName', value: 'localhost' }], {
    keySize: 2048,
    algorithm: 'sha256',
    extensions: [
      {
        name: 'subjectAltName',
        altNames: [
          { type: 2, value: 'localhost' },
          { type: 7, ip: '127.0.0.1' },
        ],
      },
    ],
  });
  await mkdir(deployment.paths.balancer, { recursive: true, mode: 0o700 });
  // Neither ends with a line end, and a PEM block has to begin on a line of its own.
  await writeFileAtomic(file, `${cert.trim()}\n${key.trim()}\n`);
  chmodSync(file, 0o600);
}
