package portal

import (
	"bytes"
	"context"
	"image"
	imagecolor "image/color"
	"image/png"
	"os"
	"sort"
	"testing"

	"github.com/chromedp/chromedp"
)

// picture keeps a picture of the whole page that is open, for the documentation: in
// the 256 colours that it has most of, which makes it small.
func picture(t *testing.T, ctx context.Context, path string) {
	t.Helper()
	shot, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		t.Fatal(err)
	}
	full, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	if err := encoder.Encode(&b, paletted(full)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func paletted(full image.Image) image.Image {
	area := full.Bounds()
	count := map[imagecolor.RGBA]int{}
	at := func(x, y int) imagecolor.RGBA { return imagecolor.RGBAModel.Convert(full.At(x, y)).(imagecolor.RGBA) }
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			count[at(x, y)]++
		}
	}
	var all []imagecolor.RGBA
	for c := range count {
		all = append(all, c)
	}
	sort.Slice(all, func(i, j int) bool { return count[all[i]] > count[all[j]] })
	var palette imagecolor.Palette
	for _, c := range all[:min(len(all), 256)] {
		palette = append(palette, c)
	}
	nearest := map[imagecolor.RGBA]uint8{}
	for _, c := range all {
		nearest[c] = uint8(palette.Index(c))
	}
	out := image.NewPaletted(area, palette)
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			out.SetColorIndex(x, y, nearest[at(x, y)])
		}
	}
	return out
}
