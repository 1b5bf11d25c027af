// Command trivy-db makes a vulnerability database in Trivy's own format from advisories of ours.
//
//	trivy-db FOLDER < advisories.json
//
// It writes FOLDER/trivy.db and FOLDER/metadata.json, with the module that Aqua Security makes Trivy's database
// with. Tests prove with it that what we know to be vulnerable is found.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/aquasecurity/trivy-db/pkg/db"
	"github.com/aquasecurity/trivy-db/pkg/metadata"
	"github.com/aquasecurity/trivy-db/pkg/types"
	bolt "go.etcd.io/bbolt"
)

type input struct {
	Updated    time.Time  `json:"updated"`
	NextUpdate time.Time  `json:"next_update"`
	Advisories []advisory `json:"advisories"`
}

type advisory struct {
	ID       string `json:"id"`
	Title    string `json:"title"`
	Severity string `json:"severity"`
	// Bucket is what Trivy looks into: "debian 12" or "pip::name of the source".
	Bucket string `json:"bucket"`
	Source string `json:"source"`
	// Package is a Debian source package, or a normalised PyPI name.
	Package string `json:"package"`
	// Fixed is a Debian version; empty while there is none.
	Fixed string `json:"fixed"`
	// Vulnerable and Patched are ranges of PyPI versions.
	Vulnerable []string `json:"vulnerable"`
	Patched    []string `json:"patched"`
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: trivy-db FOLDER < advisories.json")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "trivy-db:", err)
		os.Exit(1)
	}
}

func write(folder string) error {
	var given input
	decoder := json.NewDecoder(os.Stdin)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&given); err != nil {
		return fmt.Errorf("standard input: %w", err)
	}
	if err := db.Init(folder); err != nil {
		return err
	}
	config := db.Config{}
	err := config.BatchUpdate(func(tx *bolt.Tx) error {
		for _, one := range given.Advisories {
			if err := put(config, tx, one); err != nil {
				return fmt.Errorf("%s: %w", one.ID, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(given.Advisories) > 0 {
		if err := config.DeleteAdvisoryDetailBucket(); err != nil {
			return err
		}
	}
	if err := db.Close(); err != nil {
		return err
	}
	return metadata.NewClient(folder).Update(metadata.Metadata{
		Version:    db.SchemaVersion,
		UpdatedAt:  given.Updated,
		NextUpdate: given.NextUpdate,
	})
}

func put(config db.Config, tx *bolt.Tx, one advisory) error {
	severity, err := types.NewSeverity(one.Severity)
	if err != nil {
		return err
	}
	source := types.SourceID(one.Source)
	if err := config.PutDataSource(tx, one.Bucket, types.DataSource{ID: source, Name: one.Source}); err != nil {
		return err
	}
	said := types.Advisory{
		FixedVersion:       one.Fixed,
		VulnerableVersions: one.Vulnerable,
		PatchedVersions:    one.Patched,
	}
	if err := config.PutAdvisoryDetail(tx, one.ID, one.Package, []string{one.Bucket}, said); err != nil {
		return err
	}
	if err := config.SaveAdvisoryDetails(tx, one.ID); err != nil {
		return err
	}
	return config.PutVulnerability(tx, one.ID, types.Vulnerability{
		Title:          one.Title,
		Severity:       one.Severity,
		VendorSeverity: types.VendorSeverity{source: severity},
	})
}
