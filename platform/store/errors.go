package store

import "github.com/millrace/millrace/platform/fault"

var (
	// ErrNotFound is returned by Reader.Get for a key that is not there.
	ErrNotFound = fault.New(fault.NotFound, "key_not_found", "the key is not in the store")
	// ErrLocked is returned by Open when another process, or another DB of this process, has the directory open.
	ErrLocked = fault.New(fault.Unavailable, "store_locked", "the data directory is already open")
	// ErrDirectory is returned by Open when the directory cannot be created, read or written.
	ErrDirectory = fault.New(fault.Unavailable, "store_directory", "the data directory cannot be used")
	// ErrDamaged is returned when what is stored is not what was written: by Open for missing, truncated or altered files,
	// by reads for a value that fails its checksum. Nothing of it is served.
	ErrDamaged = fault.New(fault.Unavailable, "store_damaged", "the stored data is damaged")
	// ErrFailed is returned by everything after a write has failed: from then on nobody can say what is on the disk, so the
	// database serves nothing more, and the process has to open it again.
	ErrFailed = fault.New(fault.Unavailable, "store_failed", "a write to the disk failed")
	// ErrDiskFull is returned by Batch.Commit when the file system has too little room left. Nothing was written and the
	// database goes on: the same batch may be committed again once there is room.
	ErrDiskFull = fault.New(fault.Unavailable, "disk_full", "the disk is nearly full")
	// ErrClosed is returned by everything after Close.
	ErrClosed = fault.New(fault.Unavailable, "store_closed", "the store is closed")
	// ErrBatchFull is returned by Batch.Set and Batch.Delete when one more entry would not fit into one transaction. The batch
	// is as it was before the call.
	ErrBatchFull = fault.New(fault.TooLarge, "batch_full", "the batch is full")
	// ErrEntry is returned by Batch.Set and Batch.Delete for a key or value that no batch can take: see MaxKey and MaxValue.
	ErrEntry = fault.New(fault.TooLarge, "entry_too_large", "the key or value is too large for the store")
	// ErrBackup is returned by VerifyBackup and Restore for a file that is not a whole backup, or cannot be read.
	ErrBackup = fault.New(fault.Invalid, "backup_invalid", "the backup cannot be used")
	// ErrBackupFailed is returned by DB.Backup and DB.BackupFile if what is backed up cannot be written.
	ErrBackupFailed = fault.New(fault.Unavailable, "backup_failed", "the backup could not be written")
	// ErrNotEmpty is returned by Restore for a directory that is not empty.
	ErrNotEmpty = fault.New(fault.Conflict, "store_not_empty", "there is data where a backup is to be restored")
	// ErrKey is returned by the parsing key functions for bytes that their builders never write.
	ErrKey = fault.New(fault.Invalid, "malformed_key", "the stored key is malformed")
)
