/** What kind of image bytes are: from the bytes, whatever the browser or the file's name say. Pure. */
export interface ImageFormat {
  type: 'image/png' | 'image/jpeg' | 'image/gif' | 'image/webp';
}

/** @returns undefined for anything but PNG, JPEG, GIF and WebP: an SVG, for one, can carry scripts */
export function sniffImage(bytes: Buffer): ImageFormat | undefined {
  const starts = (text: string, at = 0) => bytes.toString('latin1', at, at + text.length) === text;
  if (starts('\x89PNG\r\n\x1a\n')) return { type: 'image/png' };
  if (starts('\xff\xd8\xff')) return { type: 'image/jpeg' };
  if (starts('GIF87a') || starts('GIF89a')) return { type: 'image/gif' };
  if (starts('RIFF') && starts('WEBP', 8)) return { type: 'image/webp' };
  return undefined;
}
